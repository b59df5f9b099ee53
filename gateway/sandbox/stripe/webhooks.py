"""Events on their way to endpoints: signed, sent, and sent again until somebody says 2xx.

Each delivery is a task of its own, so that nothing holds their order; faults make them late, doubled or lost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import time
from collections.abc import Coroutine
from typing import Any

import httpx

from gateway.sandbox.stripe.answers import to_json
from gateway.sandbox.stripe.database import Database, Document
from gateway.sandbox.stripe.endpoints import Endpoints
from gateway.sandbox.stripe.faults import WebhookFaults
from gateway.sandbox.stripe.settings import Settings
from gateway.sandbox.stripe.timetable import Timetable

USER_AGENT = "Stripe/1.0 (+https://stripe.com/docs/webhooks)"
CONNECTIONS_MAX = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to bring one event to one endpoint; `status` is None where there was no answer."""

    event_id: str
    type: str
    url: str
    attempt: int
    at_ms: int
    status: int | None
    error: str | None = None

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Webhooks:
    """Sends events. `deliveries` are all attempts so far."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        endpoints: Endpoints,
        faults: WebhookFaults,
        timetable: Timetable,
    ) -> None:
        self.deliveries: list[Delivery] = []
        self._database = database
        self._settings = settings
        self._endpoints = endpoints
        self._faults = faults
        self._timetable = timetable
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX), trust_env=False, follow_redirects=False
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: list[tuple[Document, Document]] = []
        self._undelivered: dict[str, set[str]] = {}
        """Endpoints that have not taken it yet, by event."""
        self._tried = asyncio.Condition()

    def send(self, event: Document) -> None:
        """Bring the event to every endpoint that wants it."""
        endpoints = self._endpoints.wanting(event["type"])
        self._undelivered[event["id"]] = {endpoint["id"] for endpoint in endpoints}
        event["pending_webhooks"] = len(endpoints)
        for endpoint in endpoints:
            self._send_to(event, endpoint)

    def resend(self, event_id: str, times: int = 1) -> None:
        """Send the event again to its endpoints, so many times at once, whatever the faults say. Raises Refusal."""
        event = self._database.events.get(event_id)
        for endpoint in self._endpoints.wanting(event["type"]):
            for _ in range(times):
                self._spawn(self._attempt(event, endpoint, 1))

    def release(self, order: str = "shuffled") -> int:
        """Send what a `hold` kept back: "shuffled", "reversed" or "created". Gives how many."""
        held, self._held = self._held, []
        if order == "shuffled":
            self._faults.shuffle(held)
        elif order == "reversed":
            held.reverse()
        for event, endpoint in held:
            self._spawn(self._bring(event, endpoint, 0))
        return len(held)

    def wanted(self, kind: str) -> bool:
        """Whether any endpoint gets events of that kind."""
        return bool(self._endpoints.wanting(kind))

    def delivered(self, event: Document) -> bool:
        """Whether every endpoint has taken it."""
        return not self._undelivered.get(event["id"])

    def signed(self, event: Document, endpoint: Document) -> tuple[bytes, str]:
        """The body and the Stripe-Signature header of a delivery."""
        body = to_json({**event, "api_version": endpoint["api_version"]})
        return body, signature_of(body, self._endpoints.secrets_of(endpoint))

    async def idle(self) -> None:
        """Wait until nothing is on its way; what a fault keeps back or drops is not on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def tried(self, kind: str, object_id: str) -> None:
        """Wait until an event of that kind about that object was answered by an endpoint, in whatever way."""
        events = {
            event["id"]
            for event in self._database.events
            if event["type"] == kind and event["data"]["object"]["id"] == object_id
        }
        async with self._tried:
            await self._tried.wait_for(lambda: any(delivery.event_id in events for delivery in self.deliveries))

    async def aclose(self) -> None:
        """Break off whatever is on its way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    def _send_to(self, event: Document, endpoint: Document) -> None:
        plan = self._faults.plan(event["type"])
        if plan.dropped:
            return
        if plan.held:
            self._held.append((event, endpoint))
            return
        for delay_seconds in plan.delays_seconds:
            self._spawn(self._bring(event, endpoint, delay_seconds))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bring(self, event: Document, endpoint: Document, delay_seconds: float) -> None:
        """Try until it is taken, ever more rarely."""
        pause_seconds = self._settings.webhook_retry_seconds
        if delay_seconds:
            await self._timetable.sleep(delay_seconds)
        for attempt in range(1, self._settings.webhook_attempts_max + 1):
            if await self._attempt(event, endpoint, attempt):
                return
            await self._timetable.sleep(pause_seconds)
            pause_seconds *= 2
            if endpoint not in self._endpoints.wanting(event["type"]):
                return

    async def _attempt(self, event: Document, endpoint: Document, attempt: int) -> bool:
        status, error = await self._post(event, endpoint)
        delivery = Delivery(
            event["id"], event["type"], endpoint["url"], attempt, self._timetable.clock.now_ms(), status, error
        )
        self.deliveries.append(delivery)
        if delivery.taken:
            left = self._undelivered.setdefault(event["id"], set())
            left.discard(endpoint["id"])
            event["pending_webhooks"] = len(left)
        async with self._tried:
            self._tried.notify_all()
        return delivery.taken

    async def _post(self, event: Document, endpoint: Document) -> tuple[int | None, str | None]:
        body, signature = self.signed(event, endpoint)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature,
            "User-Agent": USER_AGENT,
            "Accept": "*/*; q=0.5, application/xml",
            "Cache-Control": "no-cache",
        }
        try:
            async with asyncio.timeout(self._settings.webhook_timeout_seconds):
                answer = await self._client.post(endpoint["url"], content=body, headers=headers, timeout=None)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as failure:
            return None, type(failure).__name__
        return answer.status_code, None


def signature_of(body: bytes, signing_secrets: tuple[str, ...], timestamp: int | None = None) -> str:
    """The Stripe-Signature header: a v1 for each secret, and the fake v0 that test events carry."""
    at = int(time.time()) if timestamp is None else timestamp
    macs = [
        hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest() for secret in signing_secrets
    ]
    fake = hashlib.sha256(body).hexdigest()
    return ",".join([f"t={at}", *(f"v1={mac}" for mac in macs), f"v0={fake}"])
