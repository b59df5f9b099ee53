"""Checkout Sessions: made, found, expired. What a buyer does with one is in payments.py."""

from __future__ import annotations

import dataclasses
from typing import Any

from gateway.sandbox.stripe.answers import invalid, missing, not_now
from gateway.sandbox.stripe.customers import Customers
from gateway.sandbox.stripe.database import Database, Document, new_id, with_metadata
from gateway.sandbox.stripe.events import Events
from gateway.sandbox.stripe.prices import check_currency, check_total, line_item, totals_of
from gateway.sandbox.stripe.promotions import Promotions
from gateway.sandbox.stripe.settings import Settings
from gateway.sandbox.stripe.timetable import Timetable

PAY_PATH = "/c/pay/"
SESSION_PREFIX = "cs_test_"
LIFE_SECONDS_MIN = 30 * 60
LIFE_SECONDS_MAX = 24 * 3600
LEEWAY_SECONDS = 60
"""For the clocks of callers."""
_AS_GIVEN = (
    "allow_promotion_codes",
    "allowed_payment_method_types",
    "billing_address_collection",
    "cancel_url",
    "client_reference_id",
    "customer_email",
    "integration_identifier",
    "locale",
    "origin_context",
    "submit_type",
    "success_url",
)
_EXCLUSIVE = (("customer", "customer_email"), ("customer", "customer_creation"), ("allow_promotion_codes", "discounts"))


@dataclasses.dataclass(slots=True)
class Sale:
    """A session and what its document doesn't show."""

    session: Document
    items: list[Document]
    intent_data: dict[str, Any]
    discount: dict[str, Any] | None = None
    coupon: Document | None = None
    intent_id: str | None = None
    """Of the payment intent, once the buyer tried to pay."""


class Sessions:
    """Checkout Sessions in payment mode. `url` is where the payment pages are."""

    def __init__(
        self, database: Database, settings: Settings, events: Events, timetable: Timetable, promotions: Promotions
    ) -> None:
        self.url = ""
        self._database = database
        self._settings = settings
        self._events = events
        self._timetable = timetable
        self._promotions = promotions
        self._sales: dict[str, Sale] = {}

    def create(self, asked: dict[str, Any]) -> Document:
        """Raises Refusal."""
        self._check(asked)
        items = [line_item(self._database, item, number) for number, item in enumerate(asked["line_items"])]
        currency = check_currency(items)
        sale = Sale({}, items, asked.get("payment_intent_data", {}))
        for discount in asked.get("discounts", [])[:1]:
            sale.discount, sale.coupon = discount, self._promotions.coupon_of(discount, currency)
        check_total(totals_of(items, sale.coupon, 0).total, currency)
        sale.session = self._new_session(asked, currency)
        self.compute(sale, taxed=False)
        self._sales[sale.session["id"]] = sale
        self._database.sessions.add(sale.session)
        life_seconds = sale.session["expires_at"] - self._database.now()
        self._timetable.after(life_seconds, lambda: self._expire_if_open(sale.session))
        return sale.session

    def update(self, session: Document, asked: dict[str, Any]) -> Document:
        with_metadata(session, asked.get("metadata", {}))
        return session

    def expire(self, session: Document) -> Document:
        """Raises Refusal if it is not open."""
        if session["status"] != "open":
            message = f'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of "{session["status"]}".'  # noqa: E501
            raise not_now(message)
        self._expire_if_open(session)
        return session

    def sale(self, session_id: str) -> Sale:
        """Raises Refusal 404."""
        return self._sales[self._database.sessions.get(session_id)["id"]]

    def line_items(self, session: Document) -> list[Document]:
        return self._sales[session["id"]].items

    def apply_code(self, sale: Sale, code: str) -> None:
        """Redeem a promotion code that the buyer typed in. Raises Refusal."""
        document = self._promotions.active_code(code)
        if document is None or not sale.session["allow_promotion_codes"]:
            raise not_now("This code is invalid.", param="promotion_code")
        sale.discount = {"promotion_code": document["id"]}
        sale.coupon = self._promotions.coupon_of(sale.discount, sale.session["currency"])
        self.compute(sale, taxed=False)

    def compute(self, sale: Sale, *, taxed: bool) -> None:
        """Set what the session comes to; tax is known only once the buyer said where they are."""
        session = sale.session
        percent = self._settings.tax_percent if taxed and session["automatic_tax"]["enabled"] else 0.0
        totals = totals_of(sale.items, sale.coupon, percent)
        session["amount_subtotal"], session["amount_total"] = totals.subtotal, totals.total
        session["total_details"] = {
            "amount_discount": totals.discount,
            "amount_shipping": 0,
            "amount_tax": totals.tax,
        }
        if sale.discount is not None:
            shown = {"coupon": None, "promotion_code": None, **sale.discount}
            session["discounts"] = [shown]
        if taxed and session["automatic_tax"]["enabled"]:
            session["automatic_tax"]["status"] = "complete"

    def _check(self, asked: dict[str, Any]) -> None:
        if asked["mode"] != "payment":
            raise invalid(f"This stand-in knows no sessions with mode={asked['mode']}.", "mode")
        if "success_url" not in asked:
            raise missing("success_url")
        for one, other in _EXCLUSIVE:
            if one in asked and other in asked:
                raise invalid(f"You may only specify one of these parameters: {one}, {other}.", one)
        if not asked.get("line_items"):
            raise missing("line_items")
        self._check_expiry(asked.get("expires_at"))
        if "customer" in asked:
            self._check_customer(asked)

    def _check_expiry(self, expires_at: int | None) -> None:
        if expires_at is None:
            return
        life = expires_at - self._database.now()
        if life < LIFE_SECONDS_MIN - LEEWAY_SECONDS:
            message = "The `expires_at` timestamp must be at least 30 minutes from Checkout Session creation."
            raise invalid(message, "expires_at")
        if life > LIFE_SECONDS_MAX + LEEWAY_SECONDS:
            message = "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation."
            raise invalid(message, "expires_at")

    def _check_customer(self, asked: dict[str, Any]) -> None:
        customer = Customers.living(self._database.customers.get(asked["customer"], "customer"))
        taxed = asked.get("automatic_tax", {}).get("enabled", False)
        updates = asked.get("customer_update", {})
        if taxed and not (customer["address"] or {}).get("country") and updates.get("address") != "auto":
            raise not_now(
                "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address "
                "to the Customer or set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to "
                "'auto' to save the address entered in Checkout to the Customer.",
                "customer_tax_location_invalid",
            )

    def _new_session(self, asked: dict[str, Any], currency: str) -> Document:
        identifier = new_id(SESSION_PREFIX + "a1", 56)
        taxed = asked.get("automatic_tax", {}).get("enabled", False)
        expires_at = asked.get("expires_at", self._database.now() + int(self._settings.session_seconds))
        session = self._database.new("checkout.session", SESSION_PREFIX)
        session.update({name: asked.get(name) for name in _AS_GIVEN})
        session.update(
            id=identifier,
            automatic_tax={
                "enabled": taxed,
                "liability": {"type": "self"} if taxed else None,
                "provider": "stripe" if taxed else None,
                "status": "requires_location_inputs" if taxed else None,
            },
            currency=currency,
            customer=asked.get("customer"),
            customer_creation=None if "customer" in asked else asked.get("customer_creation", "if_required"),
            expires_at=expires_at,
            metadata=asked.get("metadata", {}),
            payment_method_types=asked.get("allowed_payment_method_types", ["card", "us_bank_account"]),
            url=f"{self.url}{PAY_PATH}{identifier}",
        )
        session["invoice_creation"]["enabled"] = asked.get("invoice_creation", {}).get("enabled", False)
        if "adaptive_pricing" in asked:
            session["adaptive_pricing"] = asked["adaptive_pricing"]
        return session

    def _expire_if_open(self, session: Document) -> None:
        if session["status"] == "open":
            session.update(status="expired", url=None)
            self._events.record("checkout.session.expired", session)
