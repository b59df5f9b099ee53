"""A stand-in for Stripe to call in a test, by the real SDK, and somebody who takes its webhooks."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import asynccontextmanager

import httpx
import stripe
import uvloop
from stripe import HTTPXClient, StripeClient

from gateway.sandbox.clock import Clock
from gateway.sandbox.stripe.server import API_KEY, WEBHOOK_SECRET, StripeServer
from gateway.sandbox.wire import Connection, response
from tests.sandbox.stripe_schemas import check_requests

START_SECONDS = 1_800_000_000
TIMEOUT_SECONDS = 30
DONE = "https://shop.example/done?order=o1&session_id={CHECKOUT_SESSION_ID}"


@dataclasses.dataclass
class Hook:
    """A webhook endpoint: keeps what the SDK verified, answers `status` until it is told otherwise."""

    secret: str = WEBHOOK_SECRET
    status: int = 200
    delay_seconds: float = 0.0
    events: list = dataclasses.field(default_factory=list)
    raw: list = dataclasses.field(default_factory=list)

    @property
    def kinds(self):
        return [event.type for event in self.events]

    def of(self, kind):
        return [event for event in self.events if event.type == kind]

    async def answer(self, request, connection):
        await asyncio.sleep(self.delay_seconds)
        body, signature = bytes(request.body), request.headers["stripe-signature"]
        self.raw.append((body, signature, request.headers))
        self.events.append(stripe.Webhook.construct_event(body, signature, self.secret))
        await connection.write(response(self.status, b"{}"))


class Caller:
    """Calls a stand-in whose clock stands still until it is advanced."""

    def __init__(self, server, hook, client):
        self.server = server
        self.hook = hook
        self.client = client
        self.v1 = client.v1
        self.sessions = client.v1.checkout.sessions
        self.acts = server.acts
        self.faults = server.faults

    async def create(self, idempotency_key=None, **params):
        options = {"idempotency_key": idempotency_key} if idempotency_key else {}
        return await self.sessions.create_async(session_params(**params), options)

    async def paid(self, **params):
        """A session that was paid, as it is then."""
        made = await self.create(**params)
        self.acts.pay(made.id)
        return await self.sessions.retrieve_async(made.id)

    async def settled(self):
        """Wait until every webhook was delivered."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await self.server.webhooks.idle()

    async def eventually(self, condition):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not condition():
                await asyncio.sleep(0.005)

    async def send(self, method, path, *, key=API_KEY, **options):
        """A call without the SDK."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as web:
            return await web.request(method, self.server.url + path, headers=headers, **options)

    async def control(self, method, path, body=None):
        answer = await self.send(method, f"/_sandbox/{path}", key=None, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


def session_params(*, amount=100, quantity=3, currency="usd", **params):
    """Three of a pack for a dollar; a parameter that is None is left out."""
    price = {"currency": currency, "unit_amount": amount, "product_data": {"name": "Starter"}}
    whole = {
        "mode": "payment",
        "line_items": [{"price_data": price, "quantity": quantity}],
        "success_url": DONE,
        "cancel_url": "https://shop.example/cancelled",
        "client_reference_id": "o1",
        "metadata": {"order_id": "o1"},
        "payment_intent_data": {"metadata": {"order_id": "o1"}},
        **params,
    }
    return {name: value for name, value in whole.items() if value is not None}


@asynccontextmanager
async def stripe_sandbox(*, api_key=API_KEY, retries=0, hook=None, **options):
    """A Caller of a running stand-in; what it called is held against Stripe's description when it ends."""
    hook = hook or Hook()
    connections = set()
    listener = await asyncio.get_running_loop().create_server(
        lambda: Connection(hook.answer, connections), "127.0.0.1", 0
    )
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/stripe-webhook"
    server = StripeServer(clock=Clock(lambda: START_SECONDS), **{"webhook_url": url, **options})
    await server.start()
    http = HTTPXClient(timeout=TIMEOUT_SECONDS)
    client = StripeClient(api_key, http_client=http, max_network_retries=retries, base_addresses={"api": server.url})
    try:
        yield Caller(server, hook, client)
        check_requests(server)
    finally:
        await http.close_async()
        await server.aclose()
        listener.close()
        await asyncio.gather(*(connection.aclose() for connection in list(connections)))


def tell(story, **options):
    """Runs `story(caller)` beside a stand-in, in uvloop as in production."""

    async def run():
        async with stripe_sandbox(**options) as caller:
            return await story(caller)

    return uvloop.run(run())
