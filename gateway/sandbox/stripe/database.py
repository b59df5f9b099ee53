"""Everything the stand-in knows, in memory: as long as its process lives, whatever becomes of the gateway."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator
from typing import Any

from gateway.sandbox.clock import Clock
from gateway.sandbox.stripe.answers import no_such
from gateway.sandbox.stripe.fixtures import Fixtures

Document = dict[str, Any]
_LETTERS = string.ascii_letters + string.digits


class Table:
    """Objects of one kind by id, oldest first."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._rows: dict[str, Document] = {}

    def add(self, document: Document) -> None:
        self._rows[document["id"]] = document

    def get(self, identifier: str, param: str = "id") -> Document:
        """Raises Refusal: 404, or 400 where `param` names a parameter other than the path's id."""
        found = self._rows.get(identifier)
        if found is None:
            raise no_such(self.kind, identifier, param)
        return found

    def remove(self, identifier: str) -> None:
        del self._rows[identifier]

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._rows

    def __iter__(self) -> Iterator[Document]:
        return iter(list(self._rows.values()))

    def __len__(self) -> int:
        return len(self._rows)


class Database:
    """One account's objects."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._fixtures = Fixtures()
        self.sessions = Table("checkout.session")
        self.payment_intents = Table("payment_intent")
        self.payment_methods = Table("payment_method")
        self.charges = Table("charge")
        self.balance_transactions = Table("balance_transaction")
        self.refunds = Table("refund")
        self.disputes = Table("dispute")
        self.customers = Table("customer")
        self.invoices = Table("invoice")
        self.products = Table("product")
        self.coupons = Table("coupon")
        self.promotion_codes = Table("promotion_code")
        self.events = Table("event")
        self.webhook_endpoints = Table("webhook_endpoint")

    def now(self) -> int:
        """Seconds since 1970, as all of Stripe's times are."""
        return self.clock.now_ms() // 1000

    def new(self, kind: str, prefix: str, **members: Any) -> Document:
        """A new object of that kind, begun from Stripe's example; it is in no table yet."""
        return self._fixtures.new(kind, id=new_id(prefix), **{"created": self.now(), **members})


def new_id(prefix: str, length: int = 24) -> str:
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(length))


def with_metadata(document: Document, changes: dict[str, str | None]) -> None:
    """Set keys of the object's metadata, and take away those that read as None."""
    merged = {**(document.get("metadata") or {}), **changes}
    document["metadata"] = {key: value for key, value in merged.items() if value is not None}
