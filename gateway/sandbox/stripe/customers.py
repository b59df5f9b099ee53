"""Customers."""

from __future__ import annotations

from typing import Any

from gateway.sandbox.stripe.answers import no_such
from gateway.sandbox.stripe.database import Database, Document, with_metadata
from gateway.sandbox.stripe.events import Events
from gateway.sandbox.stripe.fixtures import ADDRESS

_AS_GIVEN = ("address", "description", "email", "name", "phone", "preferred_locales", "tax_exempt")


class Customers:
    """Buyers that Stripe remembers. Of a deleted one its id stays, and `deleted`."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    @staticmethod
    def living(customer: Document) -> Document:
        """Raises Refusal if it was deleted."""
        if customer.get("deleted"):
            raise no_such("customer", customer["id"], "customer")
        return customer

    def create(self, asked: dict[str, Any]) -> Document:
        customer = self._database.new("customer", "cus_")
        self._set(customer, asked)
        self._database.customers.add(customer)
        self._events.record("customer.created", customer)
        return customer

    def update(self, customer: Document, asked: dict[str, Any]) -> Document:
        self.living(customer)
        before = {name: customer.get(name) for name in asked if name != "expand"}
        self._set(customer, asked)
        self._events.record("customer.updated", customer, before)
        return customer

    def delete(self, customer: Document) -> Document:
        self.living(customer)
        self._events.record("customer.deleted", customer)
        identifier = customer["id"]
        customer.clear()
        customer.update(id=identifier, object="customer", deleted=True)
        return customer

    def _set(self, customer: Document, asked: dict[str, Any]) -> None:
        for name in _AS_GIVEN:
            if name in asked:
                customer[name] = asked[name]
        if customer["address"] is not None:
            customer["address"] = {**ADDRESS, **customer["address"]}
        with_metadata(customer, asked.get("metadata", {}))
