"""Prices, checkout, orders and Stripe's events over HTTP, with billing and without."""

from __future__ import annotations

import pytest

from gateway.api.webhook import EVENT_MAX_BYTES
from gateway.errors import BillingUnavailable

SIGNED = {"stripe-signature": "good", "content-type": "application/json"}


def test_anyone_may_see_the_prices(with_api):
    async def test(api):
        answer = await api.call("GET /pricing")
        assert answer.status == 200
        assert answer.json == {
            "packs": [{"id": "s", "name": "Small", "credits": 100, "price_cents": 500, "currency": "usd"}],
            "checkout": "/checkout",
            "routes": [
                {"path": "/v1/x", "methods": ["POST"], "cost": 5, "at_most": False},
                {"path": "/v1/y", "methods": ["POST"], "cost": 20, "at_most": True},
                {"path": "/status", "methods": ["GET"], "cost": None, "at_most": False},
            ],
        }

    with_api(test)


def test_each_caller_buys_for_their_own_key(with_any_api):
    async def test(api):
        made = await api.new_key("alice")
        for who in ({"key": made["api_key"]}, {"user": "alice"}):
            answer = await api.call("POST /checkout", {"pack": "s", "quantity": 2}, **who)
            assert answer.status == 201
            assert answer.json.keys() == {"order_id", "checkout_id", "url"}
            order = api.billing.orders[answer.json["order_id"]]
            assert (order.user_id, order.key_id, order.quantity) == ("alice", made["key_id"], 2)
        assert list((await api.call("POST /checkout", {"pack": "s"}, admin=True)).errors) == ["key_id"]
        answer = await api.call("POST /checkout", {"pack": "s", "key_id": made["key_id"]}, admin=True)
        assert answer.status == 201

    with_any_api(test)


def test_nobody_buys_for_a_key_that_is_not_theirs_or_can_not_take_credits(with_api):
    async def test(api):
        alices, bobs = await api.new_key("alice"), await api.new_key("bob")
        _, unlimited = await api.provider.create("carol", credits=None)
        body = {"pack": "s", "key_id": alices["key_id"]}
        for who in ({"user": "bob"}, {"key": bobs["api_key"]}):
            assert (await api.call("POST /checkout", body, **who)).slug == "not-found"
        await api.call(f"DELETE /api-keys/{alices['key_id']}", user="alice")
        assert list((await api.call("POST /checkout", body, user="alice")).errors) == ["key_id"]
        body = {"pack": "s", "key_id": unlimited.key_id}
        assert list((await api.call("POST /checkout", body, user="carol")).errors) == ["key_id"]
        assert api.billing.orders == {}

    with_api(test)


@pytest.mark.parametrize("quantity", [0, -1, 2**63, 10**30, 1.5, 1e0, "10", True, None, 11, []], ids=repr)
def test_what_is_no_quantity_is_refused_by_name(with_api, quantity):
    async def test(api):
        made = await api.new_key()
        answer = await api.call("POST /checkout", {"pack": "s", "quantity": quantity}, key=made["api_key"])
        assert list(answer.errors) == ["quantity"]
        assert api.billing.orders == {}

    with_api(test)


@pytest.mark.parametrize("pack", ["", "unknown", "s\0", None, 7, ["s"], "s" * 201], ids=repr)
def test_what_is_no_pack_is_refused_by_name(with_api, pack):
    async def test(api):
        made = await api.new_key()
        assert list((await api.call("POST /checkout", {"pack": pack}, key=made["api_key"])).errors) == ["pack"]

    with_api(test)


@pytest.mark.parametrize("field", ["credits", "price_cents", "currency", "metadata", "success_url", "user_id"])
def test_credits_and_prices_are_not_the_buyers_to_say(with_api, field):
    async def test(api):
        made = await api.new_key()
        answer = await api.call("POST /checkout", {"pack": "s", field: 1}, key=made["api_key"])
        assert list(answer.errors) == [field]

    with_api(test)


def test_a_checkout_that_is_repeated_is_one_order(with_api):
    async def test(api):
        made = await api.new_key()
        one = await api.call("POST /checkout", {"pack": "s"}, key=made["api_key"], once="buy")
        two = await api.call("POST /checkout", {"pack": "s"}, key=made["api_key"], once="buy")
        assert one.status == 201
        assert one.body == two.body
        assert len(api.billing.orders) == 1
        assert list(api.billing.attempts) != ["buy"]

    with_api(test)


def test_a_checkout_whose_answer_was_lost_is_the_same_order_when_tried_again(with_api):
    async def test(api):
        made = await api.new_key()
        checkout = api.billing.checkout

        async def lost(**arguments):
            await checkout(**arguments)
            raise BillingUnavailable

        api.billing.checkout = lost
        body = {"pack": "s"}
        assert (await api.call("POST /checkout", body, key=made["api_key"], once="buy")).slug == "billing-unavailable"
        api.billing.checkout = checkout
        assert (await api.call("POST /checkout", body, key=made["api_key"], once="buy")).status == 201
        assert len(api.billing.orders) == 1

    with_api(test)


def test_an_order_is_its_owners_and_the_admins_to_see(with_api):
    async def test(api):
        alices, second = await api.new_key("alice"), await api.new_key("alice")
        bobs = await api.new_key("bob")
        order_id = (await api.call("POST /checkout", {"pack": "s"}, key=alices["api_key"])).json["order_id"]
        for who in ({"key": alices["api_key"]}, {"user": "alice"}, {"admin": True}):
            order = await api.call(f"GET /orders/{order_id}", **who)
            assert (order.status, order.json["state"], order.json["credits"]) == (200, "open", 100)
        for who in ({"key": bobs["api_key"]}, {"user": "bob"}, {"key": second["api_key"]}):
            answer = await api.call(f"GET /orders/{order_id}", **who)
            assert (answer.status, answer.slug) == (404, "not-found")
            nobodys = await api.call("GET /orders/ord_unknown", **who)
            assert nobodys.json["detail"] == answer.json["detail"]
        assert (await api.call(f"GET /orders/{order_id}")).status == 401

    with_api(test)


def test_without_billing_nothing_is_sold_and_that_is_said(with_api):
    async def test(api):
        made = await api.new_key()
        for call in (
            api.call("POST /checkout", {"pack": "s"}, key=made["api_key"]),
            api.call("GET /orders/ord_1", key=made["api_key"]),
            api.call("POST /stripe-webhook", headers=SIGNED, content=b"{}"),
        ):
            answer = await call
            assert (answer.status, answer.slug) == (503, "billing-not-configured")
        assert (await api.call("GET /pricing")).json["checkout"] is None

    with_api(test, selling=False)


@pytest.mark.parametrize("body", [b"{}", b"\xff\0 not JSON", b'{ "a" :1 }\n', b"[]"])
def test_an_event_is_handed_on_byte_for_byte(with_api, body):
    async def test(api):
        answer = await api.call("POST /stripe-webhook", headers=SIGNED, content=body)
        assert (answer.status, answer.json) == (200, {"received": True})
        assert api.billing.received == [body]

    with_api(test)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("stripe-signature", "")],
        [("stripe-signature", "forged")],
        [("stripe-signature", "good"), ("stripe-signature", "good")],
        [("stripe-signature", "gööd".encode())],
        [("stripe-signature", "x" * 5_000)],
    ],
    ids=len,
)
def test_what_is_not_signed_is_400_and_not_taken(with_api, headers):
    async def test(api):
        answer = await api.call("POST /stripe-webhook", headers=headers, content=b"{}")
        assert (answer.status, answer.slug) == (400, "bad-request")
        assert api.billing.received == []

    with_api(test)


def test_nothing_is_no_event(with_api):
    async def test(api):
        assert (await api.call("POST /stripe-webhook", headers=SIGNED, content=b"")).slug == "bad-request"
        assert api.billing.received == []

    with_api(test)


def test_an_event_has_a_longest_length(with_api):
    async def test(api):
        answer = await api.call("POST /stripe-webhook", headers=SIGNED, content=b"x" * (EVENT_MAX_BYTES + 1))
        assert (answer.status, answer.slug) == (413, "body-too-large")
        assert (await api.call("POST /stripe-webhook", headers=SIGNED, content=b"x" * EVENT_MAX_BYTES)).status == 200

    with_api(test)


def test_an_event_that_can_not_be_stored_is_not_acknowledged(with_api):
    async def test(api):
        api.billing.failure = BillingUnavailable(cause="secret-host")
        answer = await api.call("POST /stripe-webhook", headers=SIGNED, content=b"{}")
        assert (answer.status, answer.slug) == (503, "billing-unavailable")
        assert b"secret-host" not in answer.body

    with_api(test)
