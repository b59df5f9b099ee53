"""What buyers do with a session of the stand-in for Stripe, and what their banks do later."""

from __future__ import annotations

import pytest
import stripe

from gateway.sandbox.stripe.answers import Refusal
from tests.sandbox.stripe_caller import session_params, tell

PAID = ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded", "checkout.session.completed"]


def recorded(caller):
    """The kinds of events, in the order in which they happened."""
    return [event["type"] for event in caller.server.database.events]


def test_a_payment_completes_the_session_and_moves_the_money_once():
    async def story(caller):
        made = await caller.create()
        caller.acts.pay(made.id, name="Ada")
        paid = await caller.sessions.retrieve_async(made.id, {"expand": ["payment_intent.latest_charge"]})
        assert (paid.status, paid.payment_status, paid.url) == ("complete", "paid", None)
        assert (paid.customer_details.email, paid.customer_details.name) == ("buyer@example.com", "Ada")
        assert paid.customer is None
        intent = paid.payment_intent
        assert (intent.status, intent.amount, intent.amount_received) == ("succeeded", 300, 300)
        assert intent.metadata["order_id"] == "o1"
        charge = intent.latest_charge
        assert (charge.status, charge.paid, charge.captured, charge.amount_captured) == ("succeeded", True, True, 300)
        assert charge.metadata["order_id"] == "o1"
        assert recorded(caller) == PAID
        with pytest.raises(Refusal, match="no longer open"):
            caller.acts.pay(made.id)
        (sale,) = caller.server.books.sales()
        assert (sale["paid"], sale["refunded"], sale["disputed"]) == (300, 0, 0)

    tell(story)


def test_metadata_of_the_session_does_not_reach_the_payment_unless_it_is_asked_to():
    async def story(caller):
        paid = await caller.paid(payment_intent_data=None)
        intent = await caller.v1.payment_intents.retrieve_async(paid.payment_intent)
        assert paid.metadata["order_id"] == "o1"
        assert intent.metadata.to_dict() == {}

    tell(story)


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_payment_that_takes_its_time_leaves_the_session_complete_and_unpaid_until_its_outcome(succeeds):
    async def story(caller):
        made = await caller.create()
        caller.acts.pay_later(made.id, succeeds=succeeds)
        waiting = await caller.sessions.retrieve_async(made.id, {"expand": ["payment_intent.latest_charge"]})
        assert (waiting.status, waiting.payment_status) == ("complete", "unpaid")
        assert waiting.payment_intent.status == "processing"
        assert waiting.payment_intent.latest_charge.status == "pending"
        assert recorded(caller)[-1] == "checkout.session.completed"
        caller.server.timetable.advance(caller.server.settings.pay_later_seconds)
        over = await caller.sessions.retrieve_async(made.id, {"expand": ["payment_intent"]})
        assert over.payment_status == ("paid" if succeeds else "unpaid")
        assert over.payment_intent.status == ("succeeded" if succeeds else "requires_payment_method")
        assert recorded(caller)[-1] == f"checkout.session.async_payment_{'succeeded' if succeeds else 'failed'}"
        assert caller.server.books.sales()[0]["paid"] == (300 if succeeds else 0)

    tell(story)


def test_an_act_may_decide_a_slow_payment_and_it_is_decided_once():
    async def story(caller):
        made = await caller.create()
        caller.acts.pay_later(made.id, succeeds=False)
        caller.acts.finish(made.id, succeeded=True)
        caller.server.timetable.advance(60)
        assert (await caller.sessions.retrieve_async(made.id)).payment_status == "paid"
        with pytest.raises(Refusal):
            caller.acts.finish(made.id)

    tell(story)


def test_a_declined_card_leaves_the_session_open_for_another_try_with_the_same_payment_intent():
    async def story(caller):
        made = await caller.create()
        caller.acts.decline(made.id)
        still = await caller.sessions.retrieve_async(made.id)
        assert (still.status, still.payment_status) == ("open", "unpaid")
        caller.acts.pay(made.id)
        paid = await caller.sessions.retrieve_async(made.id, {"expand": ["payment_intent"]})
        assert paid.payment_status == "paid"
        assert paid.payment_intent.last_payment_error is None
        assert len((await caller.v1.payment_intents.list_async()).data) == 1
        charges = (await caller.v1.charges.list_async({"payment_intent": paid.payment_intent.id})).data
        assert [charge.status for charge in charges] == ["succeeded", "failed"]
        assert caller.server.books.sales()[0]["paid"] == 300

    tell(story)


def test_a_code_for_everything_needs_no_payment_and_gives_no_payment_intent():
    async def story(caller):
        caller.acts.promotion_code("FREE", percent_off=100)
        made = await caller.create(allow_promotion_codes=True)
        caller.acts.pay(made.id, promotion_code="free")
        paid = await caller.sessions.retrieve_async(made.id)
        assert (paid.status, paid.payment_status) == ("complete", "no_payment_required")
        assert (paid.amount_subtotal, paid.amount_total, paid.total_details.amount_discount) == (300, 0, 300)
        assert paid.payment_intent is None
        assert paid.discounts[0].promotion_code.startswith("promo_")
        assert recorded(caller) == ["checkout.session.completed"]

    tell(story)


def test_a_code_takes_its_part_off_and_is_refused_where_none_is_wanted():
    async def story(caller):
        caller.acts.promotion_code("THIRD", percent_off=33)
        made = await caller.create(allow_promotion_codes=True, amount=101, quantity=1)
        caller.acts.pay(made.id, promotion_code="THIRD")
        paid = await caller.sessions.retrieve_async(made.id)
        assert (paid.amount_subtotal, paid.amount_total) == (101, 68)
        plain = await caller.create()
        with pytest.raises(Refusal, match="invalid"):
            caller.acts.pay(plain.id, promotion_code="THIRD")
        open_ = await caller.create(allow_promotion_codes=True)
        with pytest.raises(Refusal, match="invalid"):
            caller.acts.pay(open_.id, promotion_code="NOBODY")

    tell(story)


def test_coupons_and_codes_are_made_by_the_api_and_given_by_the_session_too():
    async def story(caller):
        coupon = await caller.v1.coupons.create_async({"amount_off": 120, "currency": "usd"})
        code = await caller.v1.promotion_codes.create_async(
            {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "LESS", "max_redemptions": 1}
        )
        made = await caller.create(discounts=[{"promotion_code": code.id}])
        assert made.amount_total == 180
        caller.acts.pay(made.id)
        assert (await caller.v1.promotion_codes.retrieve_async(code.id)).times_redeemed == 1
        assert (await caller.v1.coupons.retrieve_async(coupon.id)).times_redeemed == 1
        again = await caller.create(allow_promotion_codes=True)
        with pytest.raises(Refusal):
            caller.acts.pay(again.id, promotion_code="LESS")

    tell(story)


@pytest.mark.parametrize(
    ("behavior", "total", "tax"), [("exclusive", 360, 60), ("inclusive", 300, 50), ("unspecified", 360, 60)]
)
def test_tax_is_added_or_contained_once_the_buyer_has_said_where_they_are(behavior, total, tax):
    async def story(caller):
        params = session_params(automatic_tax={"enabled": True})
        params["line_items"][0]["price_data"]["tax_behavior"] = behavior
        made = await caller.sessions.create_async(params)
        assert (made.amount_total, made.total_details.amount_tax) == (300, 0)
        caller.acts.pay(made.id, country="DE")
        paid = await caller.sessions.retrieve_async(made.id, {"expand": ["payment_intent"]})
        assert (paid.amount_subtotal, paid.amount_total, paid.total_details.amount_tax) == (300, total, tax)
        assert paid.payment_intent.amount == total
        assert paid.automatic_tax.status == "complete"
        assert paid.customer_details.address.country == "DE"

    tell(story)


def test_the_amounts_of_the_line_items_add_up_to_the_sessions():
    async def story(caller):
        caller.acts.promotion_code("SEVENTH", percent_off=14)
        price = session_params()["line_items"][0]["price_data"]
        items = [{"price_data": {**price, "unit_amount": amount}, "quantity": 1} for amount in (101, 57, 333)]
        made = await caller.create(line_items=items, allow_promotion_codes=True, automatic_tax={"enabled": True})
        caller.acts.pay(made.id, promotion_code="SEVENTH")
        paid = await caller.sessions.retrieve_async(made.id, {"expand": ["line_items"]})
        for member in ("subtotal", "total"):
            assert sum(item[f"amount_{member}"] for item in paid.line_items.data) == paid[f"amount_{member}"]
        assert sum(item.amount_discount for item in paid.line_items.data) == paid.total_details.amount_discount
        assert sum(item.amount_tax for item in paid.line_items.data) == paid.total_details.amount_tax

    tell(story)


def test_a_customer_is_made_if_the_session_says_so_and_used_again():
    async def story(caller):
        paid = await caller.paid(customer_creation="always")
        assert paid.customer.startswith("cus_")
        assert recorded(caller)[0] == "customer.created"
        again = await caller.paid(customer=paid.customer)
        assert again.customer == paid.customer
        intent = await caller.v1.payment_intents.retrieve_async(again.payment_intent, {"expand": ["customer"]})
        assert intent.customer.email == "buyer@example.com"
        assert recorded(caller).count("customer.created") == 1

    tell(story)


def test_customers_are_kept_changed_and_forgotten():
    async def story(caller):
        customers = caller.v1.customers
        made = await customers.create_async({"email": "a@b.example", "metadata": {"user_id": "u1", "plan": "x"}})
        changed = await customers.update_async(made.id, {"name": "Ada", "metadata": {"plan": ""}})
        assert (changed.name, changed.metadata.to_dict()) == ("Ada", {"user_id": "u1"})
        assert [one.id for one in (await customers.list_async({"email": "a@b.example"})).data] == [made.id]
        assert (await customers.delete_async(made.id)).deleted is True
        assert (await customers.retrieve_async(made.id)).deleted is True
        assert (await customers.list_async()).data == []
        with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
            await caller.create(customer=made.id)

    tell(story)


def test_an_invoice_speaks_of_the_same_money_in_an_event_of_its_own():
    async def story(caller):
        paid = await caller.paid(invoice_creation={"enabled": True})
        assert paid.invoice.startswith("in_")
        assert "invoice.paid" in recorded(caller)
        assert caller.server.books.sales()[0]["paid"] == 300

    tell(story)


def test_a_buyer_may_see_another_currency_while_ours_stays():
    async def story(caller):
        made = await caller.create()
        caller.acts.pay(made.id, presentment=(277, "eur"))
        paid = await caller.sessions.retrieve_async(made.id, {"expand": ["payment_intent.latest_charge"]})
        assert (paid.currency, paid.amount_total) == ("usd", 300)
        details = paid.payment_intent.latest_charge.presentment_details
        assert (details.presentment_amount, details.presentment_currency) == (277, "eur")

    tell(story)
