"""The stand-in for Stripe on a socket: the calls that the gateway makes, the page on which buyers pay, webhooks.

    /v1/…            api.py (key, parameters, idempotency key), then the calls of calls.py
    /c/pay/…         page.py: what buyers see
    /_sandbox/…      control.py: faults, settings, acts, books

Objects are in database.py; sessions.py, payments.py, refunds.py and disputes.py change them, and tell events.py, whose
events webhooks.py signs and sends. faults.py says which calls and webhooks fail. In a test:

    server = StripeServer(webhook_url="http://127.0.0.1:8080/stripe-webhook", webhook_secrets=("whsec_…",))
    await server.start()
    client = StripeClient(API_KEY, base_addresses={"api": server.url}, http_client=HTTPXClient())
    session = await client.v1.checkout.sessions.create_async({...})
    server.acts.pay(session.id)
    await server.webhooks.idle()
    server.books.sales(), server.webhooks.deliveries
    await server.aclose()

`python -m gateway.sandbox.stripe --port 9002` runs it as a process.
"""

from __future__ import annotations

import asyncio

from gateway.sandbox.clock import Clock
from gateway.sandbox.stripe.acts import Acts
from gateway.sandbox.stripe.answers import API_ERROR, Answer, Refusal
from gateway.sandbox.stripe.api import V1, Admitted, Api, Asked
from gateway.sandbox.stripe.books import Books, Received
from gateway.sandbox.stripe.calls import Calls
from gateway.sandbox.stripe.control import PREFIX, Control
from gateway.sandbox.stripe.customers import Customers
from gateway.sandbox.stripe.database import Database
from gateway.sandbox.stripe.disputes import Disputes
from gateway.sandbox.stripe.endpoints import Endpoints
from gateway.sandbox.stripe.events import API_VERSION, Events
from gateway.sandbox.stripe.expansion import Expansion
from gateway.sandbox.stripe.faults import Fault, Faults, WebhookFaults
from gateway.sandbox.stripe.keys import Keys
from gateway.sandbox.stripe.malformed import write_malformed, written
from gateway.sandbox.stripe.page import SHOP_PATH, PaymentPage
from gateway.sandbox.stripe.payments import Payments
from gateway.sandbox.stripe.promotions import Promotions
from gateway.sandbox.stripe.refunds import Refunds
from gateway.sandbox.stripe.sessions import PAY_PATH, Sessions
from gateway.sandbox.stripe.settings import Settings
from gateway.sandbox.stripe.timetable import Timetable
from gateway.sandbox.stripe.webhooks import Webhooks
from gateway.sandbox.wire import Connection, Request

API_KEY = "sk_test_sandbox"
WEBHOOK_SECRET = "whsec_sandbox"  # noqa: S105 - everybody's
SILENT_SECONDS = 3600.0


class StripeServer:
    """A running stand-in. What /_sandbox shows and sets is in its attributes."""

    def __init__(
        self,
        *,
        webhook_url: str | None = None,
        webhook_secrets: tuple[str, ...] = (WEBHOOK_SECRET,),
        settings: Settings | None = None,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        self.port = 0
        self.clock = clock or Clock()
        self.settings = settings or Settings()
        self.faults = Faults(seed)
        self.webhook_faults = WebhookFaults(seed)
        self.keys = Keys()
        self.database = Database(self.clock)
        self.timetable = Timetable(self.clock)
        self.endpoints = Endpoints(self.database)
        self.webhooks = Webhooks(self.database, self.settings, self.endpoints, self.webhook_faults, self.timetable)
        self.events = Events(self.database, self.webhooks.send, self.webhook_faults.twinned)
        self.books = Books(self.database, self.webhooks)
        self._wire()
        if webhook_url is not None:
            self.endpoints.add(webhook_url, webhook_secrets)
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server
        self._running: asyncio.Task[None]

    def _wire(self) -> None:
        """Put together what changes objects, and the paths that lead to it."""
        database, events, settings = self.database, self.events, self.settings
        promotions, customers = Promotions(database), Customers(database, events)
        self._sessions = sessions = Sessions(database, settings, events, self.timetable, promotions)
        payments = Payments(database, events, sessions, customers, promotions)
        refunds, disputes = Refunds(database, events), Disputes(database, events)
        self.acts = Acts(database, settings, self.timetable, sessions, payments, refunds, disputes, promotions)
        self.calls = Calls(
            database, sessions, customers, refunds, disputes, self.endpoints, promotions, self.webhooks.delivered
        )
        expansion = Expansion(database, sessions.line_items)
        self._api = Api(self.calls, events, self.keys, expansion.shown, database.now)
        self._page = PaymentPage(sessions, self.acts, self.webhooks, settings)
        self._control = Control(
            self.acts,
            self.books,
            self.endpoints,
            events,
            self.faults,
            self.keys,
            settings,
            self.timetable,
            self.webhook_faults,
            self.webhooks,
        )

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Accept connections in the running loop; port 0 takes a free one, `self.port` tells which."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self._answer, self._connections), host, port)
        self.port = self._listener.sockets[0].getsockname()[1]
        self._sessions.url = self.url
        self._running = loop.create_task(self.timetable.run())

    async def aclose(self) -> None:
        """Stop listening, and break off every connection and delivery."""
        self._listener.close()
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self.webhooks.aclose()
        await asyncio.gather(*(connection.aclose() for connection in list(self._connections)))
        await self._listener.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _answer(self, request: Request, connection: Connection) -> None:
        path, body = request.path, bytes(request.body)
        self.timetable.run_due()
        if path.startswith(PREFIX):
            await connection.write(written(self._control.answer(request.method, path, body)))
        elif path.startswith((PAY_PATH, SHOP_PATH)):
            await connection.write(written(await self._page.answer(request.method, path, body)))
        else:
            await self._serve(_asked(request), connection)

    async def _serve(self, asked: Asked, connection: Connection) -> None:
        call = self._api.call_name(asked)
        received = self.books.receive(call, asked)
        fault = self.faults.strike(call) if asked.path.startswith(V1) else None
        admitted = self._api.admit(asked)
        if fault is not None:
            received.fault = fault.kind
            await self._misbehave(fault, received, admitted, connection)
        else:
            await connection.write(written(self._carry_out(received, admitted)))

    def _carry_out(self, received: Received, admitted: Admitted | Answer) -> Answer:
        answer = admitted if isinstance(admitted, Answer) else self._api.carry_out(admitted)
        received.status = answer.status
        return answer

    async def _misbehave(
        self, fault: Fault, received: Received, admitted: Admitted | Answer, connection: Connection
    ) -> None:
        """End a call as the fault says."""
        answer = self._carry_out(received, admitted) if fault.carried_out else None
        if fault.kind == "slow":
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                answer = answer or self._carry_out(received, admitted)
            await connection.write(written(answer))
            return
        failure = _failure(fault, received.asked)
        if isinstance(admitted, Admitted):
            if fault.kept:
                self._api.keep(admitted, failure)
            elif answer is None:
                self._api.drop(admitted)
        match fault.kind:
            case "error" | "limited":
                await connection.write(written(failure))
            case "malformed":
                await write_malformed(answer or failure, fault.how, connection)
            case "reset":
                connection.reset()
            case "closed":
                connection.close()
            case _:
                await asyncio.sleep(SILENT_SECONDS)
                connection.close()


def _asked(request: Request) -> Asked:
    headers = request.headers
    return Asked(
        request.method,
        request.path,
        request.target.partition(b"?")[2],
        bytes(request.body),
        headers.get("authorization", ""),
        headers.get("content-type", ""),
        headers.get("idempotency-key"),
        headers.get("stripe-version", API_VERSION),
        request.too_large,
    )


def _failure(fault: Fault, asked: Asked) -> Answer:
    """An error of Stripe's own making."""
    headers = {"Request-Id": asked.request_id}
    if fault.kind == "limited":
        message = "Request rate limit exceeded. Learn more about rate limits here https://stripe.com/docs/rate-limits."
        refusal = Refusal(429, message, code="rate_limit", headers=headers)
    else:
        refusal = Refusal(fault.status, "A switch makes this call fail.", kind=API_ERROR, headers=headers)
    return refusal.answer()
