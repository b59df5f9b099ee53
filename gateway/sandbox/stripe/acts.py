"""What buyers, their banks and the merchant's dashboard do: one method each, for tests and for /_sandbox/acts.

Payments are named by any id of theirs: session, payment intent or charge. All raise Refusal where it can't be done.
"""

from __future__ import annotations

from typing import Any

from gateway.sandbox.stripe.answers import Refusal, not_now
from gateway.sandbox.stripe.database import Database, Document
from gateway.sandbox.stripe.disputes import Disputes
from gateway.sandbox.stripe.payments import Buyer, Payments
from gateway.sandbox.stripe.promotions import Promotions
from gateway.sandbox.stripe.refunds import Refunds
from gateway.sandbox.stripe.sessions import SESSION_PREFIX, Sessions
from gateway.sandbox.stripe.settings import Settings
from gateway.sandbox.stripe.timetable import Timetable


class Acts:
    """Each gives the object that it changed."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        timetable: Timetable,
        sessions: Sessions,
        payments: Payments,
        refunds: Refunds,
        disputes: Disputes,
        promotions: Promotions,
    ) -> None:
        self._database = database
        self._settings = settings
        self._timetable = timetable
        self._sessions = sessions
        self._payments = payments
        self._refunds = refunds
        self._disputes = disputes
        self._promotions = promotions

    def pay(self, session: str, *, promotion_code: str | None = None, **buyer: Any) -> Document:
        """By a card that works. `buyer` is what Buyer has."""
        self._redeem(session, promotion_code)
        return self._payments.pay(session, Buyer(**buyer))

    def pay_later(
        self, session: str, *, succeeds: bool | None = None, promotion_code: str | None = None, **buyer: Any
    ) -> Document:
        """By a bank debit. Its outcome comes after `pay_later_seconds`, or by `finish` where `succeeds` is None."""
        self._redeem(session, promotion_code)
        document = self._payments.pay_later(session, Buyer(**buyer))
        if succeeds is not None and document["payment_status"] == "unpaid":
            outcome = bool(succeeds)
            self._timetable.after(self._settings.pay_later_seconds, lambda: self._finish_if_open(session, outcome))
        return document

    def finish(self, session: str, *, succeeded: bool = True) -> Document:
        """The outcome of a payment that takes its time."""
        return self._payments.finish(session, succeeded=succeeded)

    def decline(self, session: str, **buyer: Any) -> Document:
        """A card that is refused: the session stays open. Gives the session."""
        self._payments.decline(session, Buyer(**buyer))
        return self._sessions.sale(session).session

    def expire(self, session: str) -> Document:
        return self._sessions.expire(self._database.sessions.get(session))

    def refund(self, payment: str, amount: int | None = None, *, status: str = "succeeded", **asked: Any) -> Document:
        """Part of a payment, or what is left of it; `status` pending or requires_action takes its time."""
        wanted = {"charge": self.charge(payment)["id"], **asked}
        return self._refunds.create(wanted if amount is None else {**wanted, "amount": amount}, status)

    def finish_refund(self, refund: str, status: str = "succeeded") -> Document:
        """What became of a refund: "succeeded", "failed", "canceled"."""
        return self._refunds.finish(self._database.refunds.get(refund), status)

    def dispute(self, payment: str, amount: int | None = None, *, inquiry: bool = False) -> Document:
        """The buyer's bank takes the money back; with an inquiry it only asks."""
        return self._disputes.open(self.charge(payment), amount=amount, inquiry=inquiry)

    def escalate(self, dispute: str) -> Document:
        """An inquiry becomes a dispute."""
        return self._disputes.escalate(self._database.disputes.get(dispute))

    def close_dispute(self, dispute: str, outcome: str) -> Document:
        """ "won", "lost", "warning_closed" or "prevented"."""
        return self._disputes.close(self._database.disputes.get(dispute), outcome)

    def promotion_code(self, code: str, *, percent_off: float | None = None, amount_off: int | None = None) -> Document:
        """A code for buyers; an amount is in US cents."""
        asked: dict[str, Any] = {"percent_off": percent_off}
        if percent_off is None:
            asked = {"amount_off": amount_off, "currency": "usd"}
        coupon = self._promotions.create_coupon(asked)
        return self._promotions.create_code({"code": code, "promotion": {"coupon": coupon["id"], "type": "coupon"}})

    def charge(self, payment: str) -> Document:
        """The charge of a session, of a payment intent, or the one with that id."""
        if payment.startswith(SESSION_PREFIX):
            payment = self._sessions.sale(payment).intent_id or payment
        if payment.startswith("pi_"):
            payment = self._database.payment_intents.get(payment)["latest_charge"] or payment
        if payment.startswith((SESSION_PREFIX, "pi_")):
            raise not_now(f"Nothing was charged for {payment}.")
        return self._database.charges.get(payment)

    def _redeem(self, session: str, promotion_code: str | None) -> None:
        if promotion_code:
            self._sessions.apply_code(self._sessions.sale(session), promotion_code)

    def _finish_if_open(self, session: str, succeeded: bool) -> None:
        try:
            self._payments.finish(session, succeeded=succeeded)
        except Refusal:
            return  # an act was quicker
