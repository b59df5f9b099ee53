"""gateway orders: what is in doubt is shown, and resolved once."""

from __future__ import annotations

import pytest

from gateway.billing.inbox import StripeEvent
from gateway.billing.orders import Order, State
from gateway.credits.provider import Movement

AT = 1_800_000_000_000


@pytest.fixture
def doubtful(provider):
    provider.movements["grant_1"] = Movement("grant_1", "promo", "key_0", 50, "in-doubt", "t-1", "died", AT, AT)
    provider.movements["call_2"] = Movement("call_2", "spend", None, -5, "in-doubt", "01J…", "late", AT, None)
    provider.movements["grant_3"] = Movement("grant_3", "promo", "key_0", 7, "applied", "t-3", None, AT, AT)


def sale(number, state, **changed):
    members = {
        "id": f"order_{number}",
        "user_id": "u",
        "key_id": "key_0",
        "pack": "starter",
        "quantity": 2,
        "credits": 200,
        "currency": "usd",
        "amount_cents": 2000,
        "livemode": False,
        "state": state,
        "cause": None,
        "needs_person": state is State.review,
        "resolution": None,
        "checkout_id": f"cs_{number}",
        "checkout_url": "https://checkout.example/secret",
        "payment_id": None,
        "reference": None,
        "clawed": 0,
        "looks": 0,
        "is_disputed": False,
        "is_frozen": False,
        "created_at": AT + number,
        "updated_at": AT,
    }
    return Order(**members | changed)


@pytest.fixture
def sold(provider):
    orders = [sale(1, State.review, cause="currency is 'eur' instead of 'usd'"), sale(2, State.fulfilled)]
    provider.desk.orders = {order.id: order for order in orders}
    provider.desk.events = {"evt_3": StripeEvent("evt_3", "refund.created", "pi_3", AT, "dead", 25, "late", AT + 3)}


def test_sales_that_need_a_person_are_listed_with_what_is_in_doubt(gateway, doubtful, sold):
    lines = gateway("orders", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "evt_3", "order_1", "grant_1", "call_2"]
    assert "currency is 'eur' instead of 'usd'" in lines[2]
    assert "order_2" in gateway("orders", "list", "--all").out


def test_a_sale_is_shown_without_its_page_to_pay_on(gateway, sold):
    document = gateway("orders", "show", "order_1", "--json").document
    told = {name: document[name] for name in ("kind", "amount", "state", "reference", "amount_cents", "user_id")}
    assert told == {
        "kind": "sale",
        "amount": 200,
        "state": "review",
        "reference": "cs_1",
        "amount_cents": 2000,
        "user_id": "u",
    }
    assert "https://checkout.example" not in gateway("orders", "show", "order_1").out


@pytest.mark.parametrize(("word", "state"), [("fulfil", State.fulfilled), ("reject", State.failed)])
def test_a_person_decides_over_a_sale_in_review(gateway, sold, provider, word, state):
    assert gateway("orders", "resolve", "order_1", word).code == 0
    assert provider.desk.orders["order_1"].state is state


def test_a_dead_event_is_retried(gateway, sold, provider):
    assert gateway("orders", "resolve", "evt_3", "retry").code == 0
    assert provider.desk.events["evt_3"].state == "new"


def test_a_word_that_does_not_apply_is_a_failure(gateway, sold):
    outcome = gateway("orders", "resolve", "order_1", "applied")
    assert (outcome.code, outcome.out) == (1, "")
    assert "does not apply" in outcome.err


def test_what_is_not_settled_is_listed(gateway, doubtful):
    lines = gateway("orders", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "grant_1", "call_2"]
    assert "in-doubt" in lines[1]
    assert [row["id"] for row in gateway("orders", "list", "--all", "--json").document] == [
        "grant_1",
        "call_2",
        "grant_3",
    ]


def test_one_is_shown_with_its_cause(gateway, doubtful):
    assert "cause      died\n" in gateway("orders", "show", "grant_1").out
    assert gateway("orders", "show", "call_2", "--json").document["key_id"] is None


def test_a_persons_word_resolves_it(gateway, doubtful, provider):
    outcome = gateway("orders", "resolve", "grant_1", "not-applied")
    assert (outcome.code, provider.movements["grant_1"].state) == (0, "not-applied")


def test_what_is_not_in_doubt_can_not_be_resolved(gateway, doubtful, provider):
    outcome = gateway("orders", "resolve", "grant_3", "not-applied")
    assert (outcome.code, outcome.out) == (1, "")
    assert "not in doubt but applied" in outcome.err
    assert provider.movements["grant_3"].state == "applied"


@pytest.mark.parametrize("command", [("show", "grant_9"), ("resolve", "grant_9", "applied")])
def test_an_unknown_order_is_a_failure_that_tells_where_to_look(gateway, command):
    outcome = gateway("orders", *command)
    assert outcome.code == 1
    assert outcome.err == "gateway: there is no order grant_9: see `gateway orders list --all`\n"


def test_another_word_than_applied_or_not_is_misuse(gateway, doubtful):
    assert gateway("orders", "resolve", "grant_1", "perhaps").code == 2
