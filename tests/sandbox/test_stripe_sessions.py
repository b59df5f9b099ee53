"""Checkout Sessions of the stand-in for Stripe, driven by the real SDK."""

from __future__ import annotations

import pytest
import stripe

from tests.sandbox.stripe_caller import DONE, START_SECONDS, session_params, tell
from tests.sandbox.stripe_schemas import check_requests

HOUR = 3600


def test_a_new_session_is_open_unpaid_and_says_what_was_asked_for():
    async def story(caller):
        made = await caller.create(customer_email="a@b.example", locale="de")
        assert made.id.startswith("cs_test_")
        assert (made.status, made.payment_status, made.mode) == ("open", "unpaid", "payment")
        assert (made.amount_subtotal, made.amount_total, made.currency) == (300, 300, "usd")
        assert made.payment_intent is None
        assert made.livemode is False
        assert made.client_reference_id == "o1"
        assert made.metadata["order_id"] == "o1"
        assert made.success_url == DONE
        assert made.customer_email == "a@b.example"
        assert made.customer_details is None
        assert made.url == f"{caller.server.url}/c/pay/{made.id}"
        assert made.expires_at == made.created + 24 * HOUR == START_SECONDS + 24 * HOUR
        assert "line_items" not in made

    tell(story)


def test_line_items_come_when_they_are_asked_for():
    async def story(caller):
        made = await caller.create()
        found = await caller.sessions.retrieve_async(made.id, {"expand": ["line_items.data.price.product"]})
        (item,) = found.line_items.data
        assert (item.description, item.quantity, item.amount_total) == ("Starter", 3, 300)
        assert (item.price.unit_amount, item.price.product.name) == (100, "Starter")
        listed = await caller.sessions.line_items.list_async(made.id)
        assert [one.id for one in listed.data] == [item.id]

    tell(story)


@pytest.mark.parametrize("path", ["foo", "metadata", "payment_intent.latest_charge.foo", "status", "url.x"])
def test_what_cant_be_expanded_is_refused(path):
    async def story(caller):
        paid = await caller.paid()
        with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
            await caller.sessions.retrieve_async(paid.id, {"expand": [path]})

    tell(story)


def test_expansion_goes_four_levels_deep_and_no_further():
    async def story(caller):
        paid = await caller.paid()
        paths = ["payment_intent.latest_charge.balance_transaction", "payment_intent.payment_method"]
        found = await caller.sessions.retrieve_async(paid.id, {"expand": paths})
        assert found.payment_intent.latest_charge.balance_transaction.net == 300 - 39
        assert found.payment_intent.payment_method.type == "card"
        with pytest.raises(stripe.InvalidRequestError, match="4 levels"):
            await caller.sessions.retrieve_async(paid.id, {"expand": ["a.b.c.d.e"]})

    tell(story)


def test_lists_are_newest_first_and_page_on_without_gaps():
    async def story(caller):
        made = [(await caller.create()).id for _ in range(7)]
        first = await caller.sessions.list_async({"limit": 3})
        assert [one.id for one in first.data] == made[:3:-1]
        assert first.has_more is True
        found = [one.id async for one in first.auto_paging_iter()]
        assert found == made[::-1]
        back = await caller.sessions.list_async({"limit": 2, "ending_before": made[3]})
        assert [one.id for one in back.data] == [made[5], made[4]]
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await caller.sessions.list_async({"starting_after": "cs_test_nobody"})
        assert (caught.value.param, caught.value.code) == ("starting_after", "resource_missing")

    tell(story)


def test_lists_are_narrowed_by_time_status_and_payment():
    async def story(caller):
        old = await caller.create()
        caller.server.timetable.advance(100)
        new = await caller.paid()

        async def ids(**params):
            return {one.id for one in (await caller.sessions.list_async(params)).data}

        assert await ids(created={"gte": START_SECONDS + 100}) == {new.id}
        assert await ids(created={"gt": START_SECONDS + 100}) == set()
        assert await ids(created={"lt": START_SECONDS + 100}) == {old.id}
        assert await ids(created=START_SECONDS) == {old.id}
        assert await ids(status="open") == {old.id}
        assert await ids(status="complete") == {new.id}
        assert await ids(payment_intent=new.payment_intent) == {new.id}
        assert await ids(customer_details={"email": "buyer@example.com"}) == {new.id}

    tell(story)


def test_a_session_expires_when_its_time_is_over_and_says_so_once():
    async def story(caller):
        made = await caller.create(expires_at=START_SECONDS + HOUR)
        caller.server.timetable.advance(HOUR - 1)
        assert (await caller.sessions.retrieve_async(made.id)).status == "open"
        caller.server.timetable.advance(1)
        gone = await caller.sessions.retrieve_async(made.id)
        assert (gone.status, gone.payment_status, gone.url) == ("expired", "unpaid", None)
        caller.server.timetable.advance(30 * HOUR)
        await caller.settled()
        assert caller.hook.kinds == ["checkout.session.expired"]

    tell(story)


def test_expiring_ends_an_open_session_and_nothing_else():
    async def story(caller):
        made = await caller.create()
        assert (await caller.sessions.expire_async(made.id)).status == "expired"
        paid = await caller.paid()
        for over in (made, paid):
            with pytest.raises(stripe.InvalidRequestError, match="Only Checkout Sessions with a status"):
                await caller.sessions.expire_async(over.id)
        caller.server.timetable.advance(48 * HOUR)
        assert (await caller.sessions.retrieve_async(paid.id)).status == "complete"

    tell(story)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"mode": None}, "mode", "parameter_missing"),
        ({"success_url": None}, "success_url", "parameter_missing"),
        ({"line_items": None}, "line_items", "parameter_missing"),
        ({"sucess_url": "https://shop.example"}, "sucess_url", "parameter_unknown"),
        ({"success_url": "shop"}, "success_url", "url_invalid"),
        ({"success_url": ""}, "success_url", "parameter_invalid_empty"),
        ({"quantity": 0}, "line_items[0][quantity]", "parameter_invalid_integer"),
        ({"quantity": "three"}, "line_items[0][quantity]", "parameter_invalid_integer"),
        ({"quantity": 1.5}, "line_items[0][quantity]", "parameter_invalid_integer"),
        ({"amount": -1}, "line_items[0][price_data][unit_amount]", "parameter_invalid_integer"),
        ({"amount": 1, "quantity": 1}, None, "amount_too_small"),
        ({"amount": 99_999_999}, None, "amount_too_large"),
        ({"currency": "xyz"}, "line_items[0][price_data][currency]", None),
        ({"mode": "pay"}, "mode", None),
        ({"line_items": [{"price": "price_nobody", "quantity": 1}]}, "line_items[0][price]", "resource_missing"),
        ({"line_items": [{"quantity": 1}]}, "line_items[0]", "parameter_missing"),
        ({"line_items": [{"quantity": 1, "colour": "red"}]}, "line_items[0][colour]", "parameter_unknown"),
        ({"client_reference_id": "x" * 201}, "client_reference_id", "parameter_invalid_string_length"),
        ({"customer": "cus_nobody"}, "customer", "resource_missing"),
        ({"customer": "cus_1", "customer_email": "a@b.example"}, "customer", None),
        ({"allow_promotion_codes": True, "discounts": [{"coupon": "x"}]}, "allow_promotion_codes", None),
        ({"allow_promotion_codes": "yes"}, "allow_promotion_codes", None),
        ({"expires_at": START_SECONDS + 60}, "expires_at", None),
        ({"expires_at": START_SECONDS + 25 * HOUR}, "expires_at", None),
        ({"payment_intent_data": "x"}, "payment_intent_data", None),
        ({"metadata": {f"k{number}": "v" for number in range(51)}}, "metadata", None),
        ({"metadata": {"k" * 41: "v"}}, "metadata", None),
        ({"metadata": {"k": "v" * 501}}, "metadata[k]", None),
    ],
)
def test_a_wrong_parameter_is_refused_by_name_and_nothing_is_made(change, param, code):
    async def story(caller):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await caller.create(**change)
        refusal = caught.value
        assert (refusal.http_status, refusal.param, refusal.code) == (400, param, code)
        assert refusal.error.type == "invalid_request_error"
        assert refusal.request_id.startswith("req_")
        assert len(caller.server.database.sessions) == 0

    tell(story)


def test_metadata_may_be_as_large_as_stripe_allows_and_holds_any_text():
    async def story(caller):
        metadata = {f"{number:040}": "v" * 500 for number in range(49)} | {"ключ & =[": "значение + %20 &"}
        with pytest.raises(stripe.InvalidRequestError):
            await caller.create(metadata=metadata)
        del metadata["ключ & =["]
        metadata["ключ & ="] = "значение + %20 & 💰\n"
        made = await caller.create(metadata=metadata)
        assert made.metadata.to_dict() == metadata

    tell(story)


def test_tax_on_a_customer_without_an_address_is_refused_unless_the_address_is_to_be_asked_for():
    async def story(caller):
        customer = await caller.v1.customers.create_async({"email": "a@b.example"})
        taxed = {"customer": customer.id, "automatic_tax": {"enabled": True}}
        with pytest.raises(stripe.InvalidRequestError) as caught:
            await caller.create(**taxed)
        assert caught.value.code == "customer_tax_location_invalid"
        made = await caller.create(**taxed, customer_update={"address": "auto"})
        assert made.automatic_tax.status == "requires_location_inputs"

    tell(story)


def test_requests_are_held_against_stripes_description():
    async def story(caller):
        await caller.create(adaptive_pricing={"enabled": False}, expand=["line_items"])
        assert check_requests(caller.server) == 1
        asked = session_params(line_items=[{"price_data": {"currency": "usd"}, "quantity": 1}])
        with pytest.raises(stripe.InvalidRequestError):
            await caller.sessions.create_async(asked)
        assert check_requests(caller.server) == 1

    tell(story)
