"""What a buyer does on the payment page, and what their bank does later.

| | session | payment intent, charge |
|---|---|---|
| `pay` | complete, paid | succeeded |
| `pay` of nothing (a discount of 100 %) | complete, no_payment_required | none |
| `pay_later` | complete, unpaid | processing, pending |
| then `finish(succeeded=True)` | paid | succeeded |
| then `finish(succeeded=False)` | unpaid for ever | requires_payment_method, failed |
| `decline` | stays open | requires_payment_method, failed |
"""

from __future__ import annotations

import dataclasses
from typing import Any

from gateway.sandbox.stripe.answers import CARD_ERROR, Refusal, not_now
from gateway.sandbox.stripe.copying import copied
from gateway.sandbox.stripe.customers import Customers
from gateway.sandbox.stripe.database import Database, Document, new_id
from gateway.sandbox.stripe.events import Events
from gateway.sandbox.stripe.fixtures import ADDRESS
from gateway.sandbox.stripe.promotions import Promotions
from gateway.sandbox.stripe.sessions import Sale, Sessions

CARD = "card"
BANK = "us_bank_account"
FEE_PERCENT, FEE_FIXED = 2.9, 30


@dataclasses.dataclass(frozen=True, slots=True)
class Buyer:
    """Who pays, as far as the page asks. `presentment` is the amount and currency that they were shown instead."""

    email: str = "buyer@example.com"
    name: str | None = None
    country: str = "US"
    presentment: tuple[int, str] | None = None


class Payments:
    """Ends of Checkout Sessions."""

    def __init__(
        self, database: Database, events: Events, sessions: Sessions, customers: Customers, promotions: Promotions
    ) -> None:
        self._database = database
        self._events = events
        self._sessions = sessions
        self._customers = customers
        self._promotions = promotions

    def pay(self, session_id: str, buyer: Buyer) -> Document:
        """By a card, at once. Gives the session. Raises Refusal if it is not open."""
        sale = self._open_sale(session_id)
        self._learn(sale, buyer)
        if sale.session["amount_total"] == 0:
            return self._complete(sale, "no_payment_required")
        intent = self._intent(sale)
        charge = self._charge(intent, buyer, CARD)
        self._succeed(intent, charge)
        self._invoice(sale)
        return self._complete(sale, "paid")

    def pay_later(self, session_id: str, buyer: Buyer) -> Document:
        """By a bank debit whose outcome is known later. Raises Refusal if it is not open."""
        sale = self._open_sale(session_id)
        self._learn(sale, buyer)
        if sale.session["amount_total"] == 0:
            return self._complete(sale, "no_payment_required")
        intent = self._intent(sale)
        charge = self._charge(intent, buyer, BANK)
        charge.update(status="pending", paid=False)
        intent.update(status="processing", latest_charge=charge["id"], payment_method=charge["payment_method"])
        self._events.record("charge.pending", charge)
        self._events.record("payment_intent.processing", intent)
        return self._complete(sale, "unpaid")

    def finish(self, session_id: str, *, succeeded: bool) -> Document:
        """The outcome of `pay_later`. Raises Refusal if there is none to come."""
        sale = self._sessions.sale(session_id)
        intent = self._database.payment_intents.get(sale.intent_id) if sale.intent_id else None
        if intent is None or intent["status"] != "processing":
            raise not_now("No payment of this session is on its way.")
        charge = self._database.charges.get(intent["latest_charge"])
        if succeeded:
            self._succeed(intent, charge)
            self._invoice(sale)
            sale.session["payment_status"] = "paid"
        else:
            self._fail(intent, charge, "payment_intent_payment_attempt_failed", "The bank could not debit the account.")
        word = "succeeded" if succeeded else "failed"
        self._events.record(f"checkout.session.async_payment_{word}", sale.session)
        return sale.session

    def decline(self, session_id: str, buyer: Buyer) -> Refusal:
        """A card that is refused; the session stays open for another attempt. Gives what the buyer is told."""
        sale = self._open_sale(session_id)
        self._sessions.compute(sale, taxed=True)
        intent = self._intent(sale)
        charge = self._charge(intent, buyer, CARD)
        self._fail(intent, charge, "card_declined", "Your card was declined.")
        return Refusal(402, "Your card was declined.", kind=CARD_ERROR, code="card_declined")

    def _open_sale(self, session_id: str) -> Sale:
        sale = self._sessions.sale(session_id)
        if sale.session["status"] != "open":
            raise not_now("This Checkout Session is no longer open.", param="session")
        return sale

    def _learn(self, sale: Sale, buyer: Buyer) -> None:
        """Take down who pays, and what the sale comes to with the tax of where they are."""
        session = sale.session
        self._sessions.compute(sale, taxed=True)
        address = {**ADDRESS, "country": buyer.country}
        email = session["customer_email"] or buyer.email
        session["customer_details"] = {
            "address": address,
            "business_name": None,
            "email": email,
            "individual_name": None,
            "name": buyer.name,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": [],
        }
        if session["customer_creation"] == "always":
            customer = self._customers.create({"email": email, "name": buyer.name, "address": address})
            session["customer"] = customer["id"]
        if buyer.presentment is not None:
            amount, currency = buyer.presentment
            session["presentment_details"] = {"presentment_amount": amount, "presentment_currency": currency}

    def _complete(self, sale: Sale, payment_status: str) -> Document:
        session = sale.session
        session.update(status="complete", payment_status=payment_status, payment_intent=sale.intent_id, url=None)
        if sale.discount is not None:
            self._promotions.redeem(sale.discount)
        self._events.record("checkout.session.completed", session)
        return session

    def _intent(self, sale: Sale) -> Document:
        """The session's payment intent, made at the first attempt to pay."""
        session = sale.session
        if sale.intent_id is not None:
            intent = self._database.payment_intents.get(sale.intent_id)
            intent["amount"] = session["amount_total"]
            return intent
        data = sale.intent_data
        intent = self._database.new(
            "payment_intent",
            "pi_3",
            amount=session["amount_total"],
            currency=session["currency"],
            customer=session["customer"],
            description=data.get("description"),
            metadata=copied(data.get("metadata", {})),
            payment_method_types=session["payment_method_types"],
            receipt_email=data.get("receipt_email"),
            setup_future_usage=data.get("setup_future_usage"),
            statement_descriptor=data.get("statement_descriptor"),
            statement_descriptor_suffix=data.get("statement_descriptor_suffix"),
            transfer_group=data.get("transfer_group"),
        )
        intent["client_secret"] = new_id(f"{intent['id']}_secret_")
        sale.intent_id = intent["id"]
        self._database.payment_intents.add(intent)
        self._events.record("payment_intent.created", intent)
        return intent

    def _charge(self, intent: Document, buyer: Buyer, method_type: str) -> Document:
        """A charge that is not decided yet."""
        method = self._method(intent, buyer, method_type)
        charge = self._database.new(
            "charge",
            "py_3" if method_type == BANK else "ch_3",
            amount=intent["amount"],
            balance_transaction=None,
            billing_details=copied(method["billing_details"]),
            currency=intent["currency"],
            customer=intent["customer"],
            description=intent["description"],
            metadata=copied(intent["metadata"]),
            payment_intent=intent["id"],
            payment_method=method["id"],
            receipt_email=intent["receipt_email"],
        )
        if method_type == BANK:
            charge["payment_method_details"] = {"type": BANK, BANK: {"bank_name": "STRIPE TEST BANK", "last4": "6789"}}
        if buyer.presentment is not None:
            amount, currency = buyer.presentment
            charge["presentment_details"] = {"presentment_amount": amount, "presentment_currency": currency}
            intent["presentment_details"] = dict(charge["presentment_details"])
        self._database.charges.add(charge)
        return charge

    def _method(self, intent: Document, buyer: Buyer, method_type: str) -> Document:
        details = {
            "address": {**ADDRESS, "country": buyer.country},
            "email": buyer.email,
            "name": buyer.name,
            "phone": None,
            "tax_id": None,
        }
        method = self._database.new(
            "payment_method", "pm_1", billing_details=details, customer=intent["customer"], type=method_type
        )
        if method_type != CARD:
            del method["card"]
            method[method_type] = {"bank_name": "STRIPE TEST BANK", "last4": "6789"}
        self._database.payment_methods.add(method)
        return method

    def _succeed(self, intent: Document, charge: Document) -> None:
        fee = min(charge["amount"], round(charge["amount"] * FEE_PERCENT / 100) + FEE_FIXED)
        booked = self._database.new(
            "balance_transaction",
            "txn_3",
            amount=charge["amount"],
            available_on=self._database.now(),
            currency=charge["currency"],
            fee=fee,
            net=charge["amount"] - fee,
            source=charge["id"],
        )
        self._database.balance_transactions.add(booked)
        charge.update(
            status="succeeded",
            paid=True,
            captured=True,
            amount_captured=charge["amount"],
            balance_transaction=booked["id"],
        )
        charge["outcome"].update(network_status="approved_by_network", type="authorized", risk_level="normal")
        intent.update(
            status="succeeded",
            amount_received=charge["amount"],
            latest_charge=charge["id"],
            payment_method=charge["payment_method"],
            last_payment_error=None,
        )
        self._events.record("charge.succeeded", charge)
        self._events.record("payment_intent.succeeded", intent)

    def _fail(self, intent: Document, charge: Document, code: str, message: str) -> None:
        charge.update(status="failed", paid=False, failure_code=code, failure_message=message)
        charge["outcome"].update(network_status="declined_by_network", type="issuer_declined")
        error: dict[str, Any] = {"charge": charge["id"], "code": code, "message": message, "type": CARD_ERROR}
        intent.update(
            status="requires_payment_method",
            latest_charge=charge["id"],
            payment_method=None,
            last_payment_error=error,
        )
        self._events.record("charge.failed", charge)
        self._events.record("payment_intent.payment_failed", intent)

    def _invoice(self, sale: Sale) -> None:
        """An invoice, where the session asked for one: its `invoice.paid` speaks of the same money once more."""
        session = sale.session
        if not session["invoice_creation"]["enabled"]:
            return
        total = session["amount_total"]
        invoice = self._database.new(
            "invoice",
            "in_1",
            amount_due=total,
            amount_overpaid=0,
            amount_paid=total,
            amount_remaining=0,
            currency=session["currency"],
            customer=session["customer"],
            metadata=copied(session["metadata"]),
            status="paid",
            subtotal=session["amount_subtotal"],
            total=total,
        )
        self._database.invoices.add(invoice)
        session["invoice"] = invoice["id"]
        self._events.record("invoice.paid", invoice)
