"""The calls of the API that the stand-in knows: method and path, parameters, what they do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

from gateway.sandbox.stripe import shapes
from gateway.sandbox.stripe.customers import Customers
from gateway.sandbox.stripe.database import Database, Document, Table, with_metadata
from gateway.sandbox.stripe.disputes import Disputes
from gateway.sandbox.stripe.endpoints import Endpoints
from gateway.sandbox.stripe.listing import page_of, within
from gateway.sandbox.stripe.parameters import Shape
from gateway.sandbox.stripe.promotions import Promotions
from gateway.sandbox.stripe.refunds import Refunds
from gateway.sandbox.stripe.sessions import Sessions

Run = Callable[[str, dict[str, Any]], Document]
"""Carries a call out, given the id in its path ("" where there is none) and its parameters. Raises Refusal."""
Filter = Callable[[Document, Any], bool]


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call: `name` is as the SDK spells it, `resource` what a restricted key needs a permission for."""

    name: str
    method: str
    path: str
    shape: Shape
    run: Run

    @property
    def resource(self) -> str:
        """`checkout_session` for /v1/checkout/sessions/{id}/expire."""
        words = [word for word in self.path.split("/")[2:] if not word.startswith("{")]
        plural = "_".join(words[:2] if words[0] == "checkout" else words[:1])
        return plural.removesuffix("s")


class Calls:
    """All calls over one database."""

    def __init__(
        self,
        database: Database,
        sessions: Sessions,
        customers: Customers,
        refunds: Refunds,
        disputes: Disputes,
        endpoints: Endpoints,
        promotions: Promotions,
        delivered: Callable[[Document], bool],
    ) -> None:
        self._database = database
        calls = [
            *self._sessions(sessions),
            *self._payments(),
            *self._refunds(refunds),
            *self._disputes(disputes),
            *self._customers(customers),
            *self._promotions(promotions),
            *self._events(delivered),
            *self._endpoints(endpoints),
        ]
        self.by_name = {call.name: call for call in calls}
        self._by_pattern = [(call.method, _pattern(call.path), call) for call in calls]

    def match(self, method: str, path: str) -> tuple[Call, str] | None:
        """The call, and the id in its path."""
        for wanted, pattern, call in self._by_pattern:
            found = pattern.fullmatch(path)
            if found is not None and wanted == method:
                return call, found.groupdict().get("id") or ""
        return None

    def _sessions(self, sessions: Sessions) -> Iterable[Call]:
        table = self._database.sessions
        path = "/v1/checkout/sessions"
        filters: dict[str, Filter] = {
            "customer": _equals("customer"),
            "customer_details": lambda one, asked: (one["customer_details"] or {}).get("email") == asked["email"],
            "payment_intent": _equals("payment_intent"),
            "status": _equals("status"),
        }
        name = "checkout.sessions"
        yield Call(f"{name}.create", "POST", path, shapes.SESSION_CREATE, lambda _, asked: sessions.create(asked))
        yield Call(f"{name}.list", "GET", path, shapes.SESSION_LIST, _lister(table, path, filters))
        yield Call(f"{name}.retrieve", "GET", f"{path}/{{id}}", shapes.NOTHING, _getter(table))
        yield Call(f"{name}.update", "POST", f"{path}/{{id}}", shapes.UPDATE, _changer(table, sessions.update))
        expire = _changer(table, lambda session, _: sessions.expire(session))
        yield Call(f"{name}.expire", "POST", f"{path}/{{id}}/expire", shapes.NOTHING, expire)

        def line_items(identifier: str, asked: dict[str, Any]) -> Document:
            items = sessions.line_items(table.get(identifier))[::-1]
            return page_of(items, asked, f"{path}/{identifier}/line_items")

        yield Call(f"{name}.line_items.list", "GET", f"{path}/{{id}}/line_items", shapes.PAGE, line_items)

    def _payments(self) -> Iterable[Call]:
        intents, charges, booked = (
            self._database.payment_intents,
            self._database.charges,
            self._database.balance_transactions,
        )
        of_customer: dict[str, Filter] = {"customer": _equals("customer")}
        of_intent: dict[str, Filter] = {**of_customer, "payment_intent": _equals("payment_intent")}

        def update(document: Document, asked: dict[str, Any]) -> Document:
            with_metadata(document, asked.get("metadata", {}))
            document["description"] = asked.get("description", document["description"])
            return document

        yield from _readers("payment_intents", intents, shapes.INTENT_LIST, of_customer)
        path = "/v1/payment_intents/{id}"
        yield Call("payment_intents.update", "POST", path, shapes.INTENT_UPDATE, _changer(intents, update))
        yield from _readers("charges", charges, shapes.CHARGE_LIST, of_intent)
        yield Call("charges.update", "POST", "/v1/charges/{id}", shapes.INTENT_UPDATE, _changer(charges, update))
        yield from _readers("balance_transactions", booked, shapes.LIST, {})

    def _refunds(self, refunds: Refunds) -> Iterable[Call]:
        table = self._database.refunds
        path = "/v1/refunds"
        yield Call("refunds.create", "POST", path, shapes.REFUND_CREATE, lambda _, asked: refunds.create(asked))
        yield from _readers("refunds", table, shapes.OF_A_PAYMENT, _OF_A_PAYMENT)
        yield Call("refunds.update", "POST", f"{path}/{{id}}", shapes.UPDATE, _changer(table, refunds.update))
        cancel = _changer(table, lambda refund, _: refunds.cancel(refund))
        yield Call("refunds.cancel", "POST", f"{path}/{{id}}/cancel", shapes.NOTHING, cancel)

    def _disputes(self, disputes: Disputes) -> Iterable[Call]:
        table = self._database.disputes
        path = "/v1/disputes/{id}"
        yield from _readers("disputes", table, shapes.OF_A_PAYMENT, _OF_A_PAYMENT)
        yield Call("disputes.update", "POST", path, shapes.DISPUTE_UPDATE, _changer(table, disputes.respond))
        give_in = _changer(table, lambda dispute, _: disputes.close(dispute, "lost"))
        yield Call("disputes.close", "POST", f"{path}/close", shapes.NOTHING, give_in)

    def _customers(self, customers: Customers) -> Iterable[Call]:
        table = self._database.customers
        path = "/v1/customers"
        yield Call("customers.create", "POST", path, shapes.CUSTOMER, lambda _, asked: customers.create(asked))
        living: Filter = lambda one, asked: one.get("email") == asked  # noqa: E731 - one line says it
        yield from _readers("customers", table, shapes.CUSTOMER_LIST, {"email": living})
        yield Call("customers.update", "POST", f"{path}/{{id}}", shapes.CUSTOMER, _changer(table, customers.update))
        delete = _changer(table, lambda customer, _: customers.delete(customer))
        yield Call("customers.delete", "DELETE", f"{path}/{{id}}", shapes.NOTHING, delete)

    def _promotions(self, promotions: Promotions) -> Iterable[Call]:
        coupons, codes = self._database.coupons, self._database.promotion_codes
        path = "/v1/promotion_codes"
        create = promotions.create_coupon
        yield Call("coupons.create", "POST", "/v1/coupons", shapes.COUPON_CREATE, lambda _, asked: create(asked))
        yield from _readers("coupons", coupons, shapes.LIST, {})
        create_code = promotions.create_code
        yield Call("promotion_codes.create", "POST", path, shapes.CODE_CREATE, lambda _, asked: create_code(asked))
        of_code: dict[str, Filter] = {"active": _equals("active"), "code": _equals("code")}
        yield from _readers("promotion_codes", codes, shapes.CODE_LIST, of_code)
        update = _changer(codes, promotions.update_code)
        yield Call("promotion_codes.update", "POST", f"{path}/{{id}}", shapes.CODE_UPDATE, update)

    def _events(self, delivered: Callable[[Document], bool]) -> Iterable[Call]:
        filters: dict[str, Filter] = {
            "type": lambda event, asked: _is_kind(event["type"], asked),
            "types": lambda event, asked: any(_is_kind(event["type"], kind) for kind in asked),
            "delivery_success": lambda event, asked: delivered(event) == asked,
        }
        yield from _readers("events", self._database.events, shapes.EVENT_LIST, filters)

    def _endpoints(self, endpoints: Endpoints) -> Iterable[Call]:
        table = self._database.webhook_endpoints
        path = "/v1/webhook_endpoints"
        name = "webhook_endpoints"
        yield Call(f"{name}.create", "POST", path, shapes.ENDPOINT_CREATE, lambda _, asked: endpoints.create(asked))
        yield from _readers(name, table, shapes.PAGE, {})
        update = _changer(table, endpoints.update)
        yield Call(f"{name}.update", "POST", f"{path}/{{id}}", shapes.ENDPOINT_UPDATE, update)
        delete = _changer(table, lambda endpoint, _: endpoints.delete(endpoint))
        yield Call(f"{name}.delete", "DELETE", f"{path}/{{id}}", shapes.NOTHING, delete)


def _equals(member: str) -> Filter:
    return lambda document, asked: document.get(member) == asked


_OF_A_PAYMENT: dict[str, Filter] = {"charge": _equals("charge"), "payment_intent": _equals("payment_intent")}


def _readers(name: str, table: Table, shape: Shape, filters: dict[str, Filter]) -> Iterable[Call]:
    """List and retrieve."""
    path = f"/v1/{name}"
    yield Call(f"{name}.list", "GET", path, shape, _lister(table, path, filters))
    yield Call(f"{name}.retrieve", "GET", f"{path}/{{id}}", shapes.NOTHING, _getter(table))


def _getter(table: Table) -> Run:
    return lambda identifier, _: table.get(identifier)


def _changer(table: Table, change: Callable[[Document, dict[str, Any]], Document]) -> Run:
    return lambda identifier, asked: change(table.get(identifier), asked)


def _lister(table: Table, path: str, filters: dict[str, Filter]) -> Run:
    def run(_: str, asked: dict[str, Any]) -> Document:
        in_time = within(asked)
        wanted = [(fits, asked[name]) for name, fits in filters.items() if name in asked]
        found = [
            document
            for document in table
            if not document.get("deleted")
            and in_time(document)
            and all(fits(document, value) for fits, value in wanted)
        ]
        return page_of(found, asked, path)

    return run


def _is_kind(kind: str, asked: str) -> bool:
    """`charge.*` means every kind that begins so."""
    return kind.startswith(asked[:-1]) if asked.endswith("*") else kind == asked


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(path.replace("{id}", r"(?P<id>[^/]+)"))
