"""What the stand-in received and did: the other side's books, against which the gateway's are audited."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, deque
from typing import Any

from gateway.sandbox.unkey.api import Asked
from gateway.sandbox.unkey.database import Database

REQUESTS_MAX = 50_000
"""The newest requests that are kept one by one; updateCredits calls are all kept, the others counted."""
UPDATE_CREDITS = "keys.updateCredits"


@dataclasses.dataclass(slots=True)
class Received:
    """One request, and what became of it."""

    asked: Asked
    at_ms: int
    fault: str | None = None
    carried_out: bool = False
    """Whether the call was run, its effects included, whatever the caller was told. A refused call ran too."""
    status: int | None = None
    """Of the answer that the call gave, even if it was not sent as given; None if it didn't run."""


class Books:
    """Counts, requests and balances. In a test read `database.balances` and `requests` directly."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.calls: Counter[str] = Counter()
        self.requests: deque[Received] = deque(maxlen=REQUESTS_MAX)
        self.updates: list[Received] = []

    def receive(self, asked: Asked) -> Received:
        received = Received(asked, self._database.clock.now_ms())
        self.calls[asked.call] += 1
        self.requests.append(received)
        if asked.call == UPDATE_CREDITS:
            self.updates.append(received)
        return received

    def forget_requests(self) -> None:
        """Begin the log anew; balances, spends and updates stay."""
        self.requests.clear()
        self.calls.clear()

    def document(self) -> dict[str, Any]:
        """The books as JSON shows them."""
        balances = self._database.balances
        return {
            "calls": dict(self.calls),
            "keys": {key_id: balances.document(key_id) for key_id in balances.key_ids()},
            "update_credits": [self._shown(received) for received in self.updates],
            "spends": [dataclasses.asdict(spend) for spend in balances.spends],
        }

    def requests_document(self) -> list[dict[str, Any]]:
        """The log as JSON shows it."""
        return [self._shown(received) for received in self.requests]

    def _shown(self, received: Received) -> dict[str, Any]:
        asked = received.asked
        return {
            "call": asked.call,
            "request_id": asked.request_id,
            "at_ms": received.at_ms,
            "body": self._without_secret(asked.raw_body),
            "fault": received.fault,
            "carried_out": received.carried_out,
            "status": received.status,
        }

    def _without_secret(self, raw_body: bytes) -> Any:
        """The body as received, with a key's id in the place of the key; None if it is not JSON."""
        try:
            body = json.loads(raw_body)
        except (ValueError, RecursionError):
            return None
        if isinstance(body, dict) and "key" in body:
            key = self._database.keys.by_secret(body["key"]) if isinstance(body["key"], str) else None
            body["key"] = key.key_id if key else None
        return body
