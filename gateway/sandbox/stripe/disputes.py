"""Disputes: the buyer's bank takes the money back at once, and gives it back if the dispute is won.

An inquiry (`warning_…`) moves no money unless it becomes a dispute.
"""

from __future__ import annotations

from typing import Any

from gateway.sandbox.stripe.answers import not_now
from gateway.sandbox.stripe.copying import copied
from gateway.sandbox.stripe.database import Database, Document, with_metadata
from gateway.sandbox.stripe.events import Events

FEE = 1500
EVIDENCE_SECONDS = 9 * 86_400
CLOSED = ("won", "lost", "warning_closed", "prevented")
OUTCOMES = CLOSED


class Disputes:
    """Disputes, and the charges that they change."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    def open(
        self, charge: Document, *, amount: int | None = None, inquiry: bool = False, reason: str = "fraudulent"
    ) -> Document:
        """By the buyer's bank. Raises Refusal where the charge has one already or took no money."""
        if charge["disputed"] or charge["status"] != "succeeded":
            raise not_now(f"Charge {charge['id']} can't be disputed.")
        due_by = self._database.now() + EVIDENCE_SECONDS
        dispute = self._database.new(
            "dispute",
            "du_1",
            amount=charge["amount"] if amount is None else amount,
            charge=charge["id"],
            currency=charge["currency"],
            is_charge_refundable=inquiry,
            payment_intent=charge["payment_intent"],
            reason=reason,
            status="warning_needs_response" if inquiry else "needs_response",
        )
        dispute["evidence_details"]["due_by"] = due_by
        dispute["payment_method_details"]["card"]["case_type"] = "inquiry" if inquiry else "chargeback"
        charge["disputed"] = True
        self._database.disputes.add(dispute)
        self._events.record("charge.dispute.created", dispute)
        self._events.record("charge.updated", charge, {"disputed": False})
        if not inquiry:
            self._withdraw(dispute)
        return dispute

    def escalate(self, dispute: Document) -> Document:
        """An inquiry becomes a dispute. Raises Refusal unless it is an open inquiry."""
        if not dispute["status"].startswith("warning_") or dispute["status"] in CLOSED:
            raise not_now("Only an open inquiry can become a dispute.")
        before = {"status": dispute["status"]}
        dispute.update(status="needs_response", is_charge_refundable=False)
        dispute["payment_method_details"]["card"]["case_type"] = "chargeback"
        self._events.record("charge.dispute.updated", dispute, before)
        self._withdraw(dispute)
        return dispute

    def respond(self, dispute: Document, asked: dict[str, Any]) -> Document:
        """Metadata and evidence from us; with `submit`, as it is without saying so, the bank looks at it."""
        self._check_open(dispute)
        before = {"status": dispute["status"], "evidence": copied(dispute["evidence"])}
        with_metadata(dispute, asked.get("metadata", {}))
        dispute["evidence"].update(asked.get("evidence", {}))
        if asked.get("submit", True) and "evidence" in asked:
            warning = dispute["status"].startswith("warning_")
            dispute["status"] = "warning_under_review" if warning else "under_review"
            dispute["evidence_details"].update(has_evidence=True, submission_count=1)
        self._events.record("charge.dispute.updated", dispute, before)
        return dispute

    def close(self, dispute: Document, outcome: str) -> Document:
        """The bank's decision, or our giving in (lost). Raises Refusal if it is closed already."""
        self._check_open(dispute)
        before = {"status": dispute["status"]}
        withdrawn = len(dispute["balance_transactions"]) == 1
        dispute["status"] = outcome
        if outcome == "won" and withdrawn:
            self._move(dispute, dispute["amount"])
        self._events.record("charge.dispute.updated", dispute, before)
        self._events.record("charge.dispute.closed", dispute)
        if outcome == "won" and withdrawn:
            self._events.record("charge.dispute.funds_reinstated", dispute)
        return dispute

    def _check_open(self, dispute: Document) -> None:
        if dispute["status"] in CLOSED:
            raise not_now("This dispute is already closed", "dispute_already_closed")

    def _withdraw(self, dispute: Document) -> None:
        self._move(dispute, -dispute["amount"])
        self._events.record("charge.dispute.funds_withdrawn", dispute)

    def _move(self, dispute: Document, amount: int) -> None:
        fee = FEE if amount < 0 else 0
        booked = self._database.new(
            "balance_transaction",
            "txn_1",
            amount=amount,
            currency=dispute["currency"],
            fee=fee,
            net=amount - fee,
            reporting_category="dispute" if amount < 0 else "dispute_reversal",
            source=dispute["id"],
            type="adjustment",
        )
        self._database.balance_transactions.add(booked)
        dispute["balance_transactions"].append(booked)
