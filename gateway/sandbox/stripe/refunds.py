"""Refunds of charges, whole or in parts, and what becomes of those that take their time.

A refund is pending, requires_action, succeeded, failed or canceled. A charge's `amount_refunded` counts all but the
last two.
"""

from __future__ import annotations

from typing import Any

from gateway.sandbox.stripe.answers import invalid, not_now
from gateway.sandbox.stripe.copying import copied
from gateway.sandbox.stripe.currencies import shown
from gateway.sandbox.stripe.database import Database, Document, with_metadata
from gateway.sandbox.stripe.events import Events

OPEN = ("pending", "requires_action")
COUNTED = (*OPEN, "succeeded")
STATUSES = (*COUNTED, "failed", "canceled")


class Refunds:
    """Refunds, and the charges that they change."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    def create(self, asked: dict[str, Any], status: str = "succeeded") -> Document:
        """Raises Refusal where the charge can't be refunded, or not by that much."""
        charge = self._charge(asked)
        left = charge["amount"] - charge["amount_refunded"]
        amount = asked.get("amount", left)
        self._check(charge, amount, left)
        refund = self._database.new(
            "refund",
            "re_3",
            amount=amount,
            charge=charge["id"],
            currency=charge["currency"],
            metadata={},
            payment_intent=charge["payment_intent"],
            reason=asked.get("reason"),
            status=status,
        )
        with_metadata(refund, asked.get("metadata", {}))
        if status in OPEN:
            refund["pending_reason"] = "processing"
        else:
            self._book(refund, -amount)
        self._database.refunds.add(refund)
        before = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
        self._recount(charge)
        self._events.record("refund.created", refund)
        self._events.record("charge.refunded", charge, before)
        return refund

    def update(self, refund: Document, asked: dict[str, Any]) -> Document:
        before = {"metadata": copied(refund["metadata"])}
        with_metadata(refund, asked.get("metadata", {}))
        self._changed(refund, before)
        return refund

    def cancel(self, refund: Document) -> Document:
        """Raises Refusal unless it waits for the buyer."""
        if refund["status"] != "requires_action":
            raise not_now("Only refunds with a status of requires_action can be canceled.")
        return self.finish(refund, "canceled")

    def finish(self, refund: Document, status: str) -> Document:
        """What became of a refund: pending ones succeed, fail or are canceled, and succeeded ones may fail yet."""
        before = {"status": refund["status"]}
        if before["status"] == status or before["status"] in ("failed", "canceled"):
            raise not_now(f"The refund is {before['status']} already.")
        refund["status"] = status
        refund.pop("pending_reason", None)
        if status == "succeeded":
            self._book(refund, -refund["amount"])
        elif status in ("failed", "canceled"):
            refund["failure_reason"] = "expired_or_canceled_card" if status == "failed" else "merchant_request"
            if before["status"] == "succeeded":
                refund["failure_balance_transaction"] = self._booked(refund, refund["amount"])
        self._recount(self._database.charges.get(refund["charge"]))
        self._changed(refund, before)
        if status == "failed":
            self._events.record("refund.failed", refund)
        return refund

    def of(self, charge: Document) -> list[Document]:
        """Newest first."""
        return [refund for refund in self._database.refunds if refund["charge"] == charge["id"]][::-1]

    def _charge(self, asked: dict[str, Any]) -> Document:
        if "charge" in asked:
            return self._database.charges.get(asked["charge"], "charge")
        if "payment_intent" not in asked:
            raise invalid("One of the following params should be provided for this request: payment_intent or charge.")
        intent = self._database.payment_intents.get(asked["payment_intent"], "payment_intent")
        if intent["latest_charge"] is None or intent["status"] != "succeeded":
            message = f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund."
            raise not_now(message, param="payment_intent")
        return self._database.charges.get(intent["latest_charge"])

    def _check(self, charge: Document, amount: int, left: int) -> None:
        identifier = charge["id"]
        if charge["status"] != "succeeded":
            raise not_now(f"Charge {identifier} has not succeeded and can't be refunded.", "charge_not_refundable")
        if charge["disputed"] and not self._refundable(charge):
            message = f"Charge {identifier} has been charged back; cannot issue a refund."
            raise not_now(message, "charge_disputed")
        if left == 0:
            raise not_now(f"Charge {identifier} has already been refunded.", "charge_already_refunded")
        if amount > left:
            wanted, unrefunded = shown(amount, charge["currency"]), shown(left, charge["currency"])
            message = f"Refund amount ({wanted}) is greater than unrefunded amount on charge ({unrefunded})"
            raise not_now(message, param="amount")

    def _refundable(self, charge: Document) -> bool:
        disputes = [dispute for dispute in self._database.disputes if dispute["charge"] == charge["id"]]
        return all(dispute["is_charge_refundable"] for dispute in disputes)

    def _recount(self, charge: Document) -> None:
        charge["amount_refunded"] = sum(one["amount"] for one in self.of(charge) if one["status"] in COUNTED)
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]

    def _book(self, refund: Document, amount: int) -> None:
        refund["balance_transaction"] = self._booked(refund, amount)

    def _booked(self, refund: Document, amount: int) -> str:
        booked = self._database.new(
            "balance_transaction",
            "txn_3",
            amount=amount,
            currency=refund["currency"],
            net=amount,
            reporting_category="refund" if amount < 0 else "refund_failure",
            source=refund["id"],
            type="refund" if amount < 0 else "refund_failure",
        )
        self._database.balance_transactions.add(booked)
        identifier: str = booked["id"]
        return identifier

    def _changed(self, refund: Document, before: dict[str, Any]) -> None:
        self._events.record("refund.updated", refund, before)
        self._events.record("charge.refund.updated", refund, before)
