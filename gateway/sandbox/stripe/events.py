"""Events: what happened, with the object as it was then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gateway.sandbox.stripe.copying import copied
from gateway.sandbox.stripe.database import Database, Document

API_VERSION = "2026-10-28.endive"
"""Of the account; an endpoint may have another."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """The request that made something happen; nobody's, if a buyer or the bank did."""

    request_id: str | None = None
    idempotency_key: str | None = None


class Events:
    """Writes events down and hands each to `happened`."""

    def __init__(
        self, database: Database, happened: Callable[[Document], None], twinned: Callable[[str], bool]
    ) -> None:
        """`twinned` says of a kind whether two events are to be made of this one change."""
        self._database = database
        self._happened = happened
        self._twinned = twinned
        self.cause = Cause()
        """Of what is being carried out."""

    def record(self, kind: str, of: Document, previous: dict[str, Any] | None = None) -> Document:
        """`kind` ("charge.refunded") happened to the object; `previous` holds the members that were otherwise."""
        data: Document = {"object": copied(of)}
        if previous is not None:
            data["previous_attributes"] = copied(previous)
        request = {"id": self.cause.request_id, "idempotency_key": self.cause.idempotency_key}
        event = self._database.new("event", "evt_", type=kind, data=data, api_version=API_VERSION, request=request)
        self._add(event)
        if self._twinned(kind):
            self.twin(event["id"])
        return event

    def twin(self, event_id: str) -> Document:
        """The same again under another id, as Stripe at times makes two events of one change."""
        original = self._database.events.get(event_id)
        event = self._database.new("event", "evt_", **copied(_without_id(original)))
        self._add(event)
        return event

    def _add(self, event: Document) -> None:
        self._database.events.add(event)
        self._happened(event)


def _without_id(event: Document) -> Document:
    return {name: value for name, value in event.items() if name not in ("id", "pending_webhooks")}
