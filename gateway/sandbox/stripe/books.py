"""What the stand-in received, sent and took: Stripe's books, against which the gateway's are audited."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from typing import Any

from gateway.sandbox.stripe.api import Asked
from gateway.sandbox.stripe.database import Database, Document
from gateway.sandbox.stripe.forms import BadForm, Parameters, read_form
from gateway.sandbox.stripe.refunds import COUNTED
from gateway.sandbox.stripe.webhooks import Webhooks

REQUESTS_MAX = 50_000


@dataclasses.dataclass(slots=True)
class Received:
    """One request of the API, and what became of it."""

    call: str
    asked: Asked
    at_ms: int
    fault: str | None = None
    status: int | None = None
    """Of what the call answered, even if it was not sent as such; None if it did not run."""

    @property
    def parameters(self) -> Parameters:
        """Query and body together, as the caller nested them; empty where they are no form."""
        try:
            return read_form(b"&".join(part for part in (self.asked.query, self.asked.body) if part))
        except BadForm:
            return {}


class Books:
    """Requests, deliveries and money."""

    def __init__(self, database: Database, webhooks: Webhooks) -> None:
        self._database = database
        self._webhooks = webhooks
        self.calls: Counter[str] = Counter()
        self.requests: deque[Received] = deque(maxlen=REQUESTS_MAX)

    def receive(self, call: str, asked: Asked) -> Received:
        received = Received(call, asked, self._database.clock.now_ms())
        self.calls[call] += 1
        self.requests.append(received)
        return received

    def sales(self) -> list[dict[str, Any]]:
        """Each session with what is true of its money now: what was paid, went back, and is disputed away."""
        return [self._sale(session) for session in self._database.sessions]

    def document(self) -> dict[str, Any]:
        """The books as JSON shows them."""
        return {
            "calls": dict(self.calls),
            "sales": self.sales(),
            "events": dict(Counter(event["type"] for event in self._database.events)),
            "deliveries": [dataclasses.asdict(delivery) for delivery in self._webhooks.deliveries],
        }

    def requests_document(self) -> list[dict[str, Any]]:
        """The log as JSON shows it; keys are not in it."""
        return [
            {
                "call": received.call,
                "method": received.asked.method,
                "path": received.asked.path,
                "parameters": received.parameters,
                "idempotency_key": received.asked.idempotency_key,
                "request_id": received.asked.request_id,
                "at_ms": received.at_ms,
                "fault": received.fault,
                "status": received.status,
            }
            for received in self.requests
        ]

    def _sale(self, session: Document) -> dict[str, Any]:
        charges = [
            charge
            for charge in self._database.charges
            if session["payment_intent"] is not None
            and charge["payment_intent"] == session["payment_intent"]
            and charge["status"] == "succeeded"
        ]
        ids = {charge["id"] for charge in charges}
        refunds = [refund for refund in self._database.refunds if refund["charge"] in ids]
        disputes = [dispute for dispute in self._database.disputes if dispute["charge"] in ids]
        return {
            "session": session["id"],
            "client_reference_id": session["client_reference_id"],
            "status": session["status"],
            "payment_status": session["payment_status"],
            "amount_subtotal": session["amount_subtotal"],
            "amount_total": session["amount_total"],
            "paid": sum(charge["amount"] for charge in charges),
            "refunded": sum(refund["amount"] for refund in refunds if refund["status"] in COUNTED),
            "disputed": sum(dispute["amount"] for dispute in disputes if _withdrawn(dispute)),
        }


def _withdrawn(dispute: Document) -> bool:
    """Whether the money is away."""
    moved: int = sum(booked["amount"] for booked in dispute["balance_transactions"])
    return moved < 0
