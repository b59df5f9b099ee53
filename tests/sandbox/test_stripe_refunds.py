"""Money that goes back: refunds and disputes of the stand-in for Stripe."""

from __future__ import annotations

import pytest
import stripe

from gateway.sandbox.stripe.answers import Refusal
from tests.sandbox.stripe_caller import tell


def kinds_since(caller, number):
    return [event["type"] for event in caller.server.database.events][number:]


def test_a_refund_in_parts_adds_up_and_ends_at_what_was_paid():
    async def story(caller):
        paid = await caller.paid()
        start = len(caller.server.database.events)
        first = await caller.v1.refunds.create_async({"payment_intent": paid.payment_intent, "amount": 100})
        assert (first.status, first.amount, first.payment_intent) == ("succeeded", 100, paid.payment_intent)
        charge = await caller.v1.charges.retrieve_async(first.charge)
        assert (charge.amount_refunded, charge.refunded) == (100, False)
        with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded") as caught:
            await caller.v1.refunds.create_async({"charge": charge.id, "amount": 201})
        assert caught.value.param == "amount"
        rest = await caller.v1.refunds.create_async({"charge": charge.id, "reason": "requested_by_customer"})
        assert rest.amount == 200
        charge = await caller.v1.charges.retrieve_async(charge.id, {"expand": ["refunds"]})
        assert (charge.amount_refunded, charge.refunded) == (300, True)
        assert [refund.id for refund in charge.refunds.data] == [rest.id, first.id]
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await caller.v1.refunds.create_async({"charge": charge.id})
        assert caught.value.code == "charge_already_refunded"
        assert kinds_since(caller, start) == ["refund.created", "charge.refunded"] * 2
        assert caller.server.books.sales()[0]["refunded"] == 300

    tell(story)


@pytest.mark.parametrize("status", ["pending", "requires_action"])
@pytest.mark.parametrize(("outcome", "counted"), [("succeeded", 100), ("failed", 0), ("canceled", 0)])
def test_a_refund_that_takes_its_time_counts_unless_it_fails(status, outcome, counted):
    async def story(caller):
        paid = await caller.paid()
        refund = caller.acts.refund(paid.id, 100, status=status)
        charge = await caller.v1.charges.retrieve_async(refund["charge"])
        assert (refund["status"], charge.amount_refunded) == (status, 100)
        caller.acts.finish_refund(refund["id"], outcome)
        found = await caller.v1.refunds.retrieve_async(refund["id"], {"expand": ["charge"]})
        assert (found.status, found.charge.amount_refunded) == (outcome, counted)
        kinds = kinds_since(caller, 0)
        assert {"refund.updated", "charge.refund.updated"} <= set(kinds)
        assert ("refund.failed" in kinds) == (outcome == "failed")
        with pytest.raises(Refusal, match="already"):
            caller.acts.finish_refund(refund["id"], outcome)

    tell(story)


def test_even_a_refund_that_succeeded_may_fail_yet():
    async def story(caller):
        paid = await caller.paid()
        refund = await caller.v1.refunds.create_async({"payment_intent": paid.payment_intent})
        caller.acts.finish_refund(refund.id, "failed")
        charge = await caller.v1.charges.retrieve_async(refund.charge)
        assert (charge.amount_refunded, charge.refunded) == (0, False)
        again = await caller.v1.refunds.create_async({"payment_intent": paid.payment_intent})
        assert again.amount == 300

    tell(story)


def test_only_a_refund_that_waits_for_the_buyer_can_be_canceled():
    async def story(caller):
        paid = await caller.paid()
        refund = caller.acts.refund(paid.id, 100, status="requires_action")
        assert (await caller.v1.refunds.cancel_async(refund["id"])).status == "canceled"
        done = caller.acts.refund(paid.id, 100)
        with pytest.raises(stripe.InvalidRequestError):
            await caller.v1.refunds.cancel_async(done["id"])

    tell(story)


def test_refunds_and_disputes_are_listed_by_payment_and_by_time():
    async def story(caller):
        first, second = await caller.paid(), await caller.paid()
        caller.acts.refund(first.id, 10)
        caller.server.timetable.advance(50)
        refund = caller.acts.refund(second.id, 20)
        dispute = caller.acts.dispute(first.id)
        found = await caller.v1.refunds.list_async({"payment_intent": second.payment_intent})
        assert [one.id for one in found.data] == [refund["id"]]
        found = await caller.v1.refunds.list_async({"created": {"gte": refund["created"]}})
        assert [one.id for one in found.data] == [refund["id"]]
        found = await caller.v1.disputes.list_async({"charge": dispute["charge"]})
        assert [one.id for one in found.data] == [dispute["id"]]
        found = await caller.v1.disputes.list_async({"payment_intent": second.payment_intent})
        assert found.data == []

    tell(story)


def test_what_was_not_paid_can_be_neither_refunded_nor_disputed():
    async def story(caller):
        made = await caller.create()
        with pytest.raises(Refusal):
            caller.acts.refund(made.id)
        caller.acts.pay_later(made.id)
        intent = (await caller.sessions.retrieve_async(made.id)).payment_intent
        with pytest.raises(stripe.InvalidRequestError, match="does not have a successful charge"):
            await caller.v1.refunds.create_async({"payment_intent": intent})
        with pytest.raises(Refusal):
            caller.acts.dispute(made.id)
        with pytest.raises(stripe.InvalidRequestError, match="One of the following"):
            await caller.v1.refunds.create_async({"amount": 5})

    tell(story)


def test_a_dispute_takes_the_money_when_it_opens_and_gives_it_back_when_it_is_won():
    async def story(caller):
        paid = await caller.paid()
        start = len(caller.server.database.events)
        opened = caller.acts.dispute(paid.id)
        dispute = await caller.v1.disputes.retrieve_async(opened["id"], {"expand": ["charge"]})
        assert (dispute.status, dispute.amount, dispute.charge.disputed) == ("needs_response", 300, True)
        assert dispute.payment_intent == paid.payment_intent
        assert caller.server.books.sales()[0]["disputed"] == 300
        assert kinds_since(caller, start) == [
            "charge.dispute.created",
            "charge.updated",
            "charge.dispute.funds_withdrawn",
        ]
        start = len(caller.server.database.events)
        caller.acts.close_dispute(dispute.id, "won")
        assert (await caller.v1.disputes.retrieve_async(dispute.id)).status == "won"
        assert caller.server.books.sales()[0]["disputed"] == 0
        assert kinds_since(caller, start) == [
            "charge.dispute.updated",
            "charge.dispute.closed",
            "charge.dispute.funds_reinstated",
        ]

    tell(story)


def test_a_lost_dispute_keeps_the_money_and_a_disputed_charge_cant_be_refunded():
    async def story(caller):
        paid = await caller.paid()
        dispute = caller.acts.dispute(paid.id, 120)
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await caller.v1.refunds.create_async({"payment_intent": paid.payment_intent})
        assert caught.value.code == "charge_disputed"
        caller.acts.close_dispute(dispute["id"], "lost")
        assert caller.server.books.sales()[0]["disputed"] == 120
        assert "charge.dispute.funds_reinstated" not in kinds_since(caller, 0)
        with pytest.raises(Refusal, match="already closed"):
            caller.acts.close_dispute(dispute["id"], "won")
        with pytest.raises(Refusal):
            caller.acts.dispute(paid.id)

    tell(story)


def test_an_inquiry_moves_no_money_unless_it_becomes_a_dispute():
    async def story(caller):
        quiet, loud = await caller.paid(), await caller.paid()
        inquiry = caller.acts.dispute(quiet.id, inquiry=True)
        assert (inquiry["status"], inquiry["is_charge_refundable"]) == ("warning_needs_response", True)
        caller.acts.refund(quiet.id, 100)
        caller.acts.close_dispute(inquiry["id"], "warning_closed")
        assert not [kind for kind in kinds_since(caller, 0) if "funds" in kind]
        serious = caller.acts.dispute(loud.id, inquiry=True)
        caller.acts.escalate(serious["id"])
        assert [sale["disputed"] for sale in caller.server.books.sales()] == [0, 300]
        with pytest.raises(Refusal, match="open inquiry"):
            caller.acts.escalate(serious["id"])

    tell(story)


def test_we_may_answer_a_dispute_or_give_in():
    async def story(caller):
        paid = await caller.paid()
        dispute = caller.acts.dispute(paid.id)
        answered = await caller.v1.disputes.update_async(dispute["id"], {"evidence": {"receipt": "file_1"}})
        assert (answered.status, answered.evidence_details.has_evidence) == ("under_review", True)
        assert (await caller.v1.disputes.close_async(dispute["id"])).status == "lost"

    tell(story)
