"""Balances, history and adjustments over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.harness import gather

NONE_OF_THEM_AMOUNTS = [0, 2**63, -(2**63), 10**30, 1.5, 1e3, "10", True, False, None, [], {}]


def adjustment(key_id, amount=10, **changes):
    document = {"key_id": key_id, "amount": amount, "kind": "promo", "reason": "thanks", "reference": "ticket-1"}
    return {**document, **changes}


def test_a_balance_tells_what_is_held_apart(with_api):
    async def test(api):
        made = await api.new_key(credits=10)
        hold = await api.provider.hold(made["api_key"].encode(), 4, "/v1/x", "r1")
        balance = (await api.call("GET /credits", key=made["api_key"])).json
        assert (balance["available"], balance["held"], balance["unlimited"]) == (6, 4, False)
        await api.provider.release(hold, "test")

    with_api(test)


def test_asking_costs_nothing_and_leaves_no_trace_in_the_history(with_any_api):
    async def test(api):
        made = await api.new_key(credits=0)
        for _ in range(3):
            assert (await api.call("GET /credits", key=made["api_key"])).json["available"] == 0
        assert (await api.call("GET /credits/transactions", key=made["api_key"])).json["transactions"] == []

    with_any_api(test)


def test_an_unlimited_key_says_so(with_any_api):
    async def test(api):
        secret, _ = await api.provider.create("alice", credits=None)
        balance = (await api.call("GET /credits", key=secret)).json
        assert (balance["available"], balance["unlimited"]) == (None, True)

    with_any_api(test)


def test_which_key_is_meant_must_be_clear(with_api):
    async def test(api):
        assert (await api.call("GET /credits", user="alice")).slug == "not-found"
        first = await api.new_key("alice", credits=3)
        assert (await api.call("GET /credits", user="alice")).json["available"] == 3
        second = await api.new_key("alice", credits=4)
        assert list((await api.call("GET /credits", user="alice")).errors) == ["key_id"]
        assert list((await api.call("GET /credits", admin=True)).errors) == ["key_id"]
        chosen = await api.call(f"GET /credits?key_id={second['key_id']}", user="alice")
        assert chosen.json["available"] == 4
        await api.call(f"DELETE /api-keys/{first['key_id']}", user="alice")
        assert (await api.call("GET /credits", user="alice")).json["available"] == 4

    with_api(test)


def test_an_adjustment_is_applied_once_whoever_repeats_it(with_any_api):
    async def test(api):
        key_id = (await api.new_key(credits=0))["key_id"]
        answers = await gather(10, lambda _: api.call("POST /credits/adjustments", adjustment(key_id, 50), admin=True))
        assert {answer.status for answer in answers} == {201}
        assert len({answer.body for answer in answers}) == 1
        assert answers[0].json["amount"] == 50
        balance = await api.call(f"GET /credits?key_id={key_id}", admin=True)
        assert balance.json["available"] == 50

    with_any_api(test)


@pytest.mark.parametrize(
    "changes",
    [{"amount": 11}, {"kind": "adjustment"}, {"reason": "else"}, {"key_id": "other"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_reference_that_was_used_for_something_else_is_a_conflict(with_any_api, changes):
    async def test(api):
        key_id, other = (await api.new_key(credits=0))["key_id"], (await api.new_key("bob", credits=0))["key_id"]
        assert (await api.call("POST /credits/adjustments", adjustment(key_id), admin=True)).status == 201
        changed = {**changes, **({"key_id": other} if "key_id" in changes else {})}
        answer = await api.call("POST /credits/adjustments", {**adjustment(key_id), **changed}, admin=True)
        assert (answer.status, answer.slug) == (409, "conflict")
        assert (await api.call(f"GET /credits?key_id={key_id}", admin=True)).json["available"] == 10
        assert (await api.call(f"GET /credits?key_id={other}", admin=True)).json["available"] == 0

    with_any_api(test)


@pytest.mark.parametrize("kind", ["promo", "adjustment"])
@pytest.mark.parametrize("amount", NONE_OF_THEM_AMOUNTS, ids=repr)
def test_what_is_no_amount_is_refused_by_name_and_moves_nothing(with_api, amount, kind):
    async def test(api):
        key_id = (await api.new_key(credits=5))["key_id"]
        answer = await api.call("POST /credits/adjustments", adjustment(key_id, amount, kind=kind), admin=True)
        assert list(answer.errors) == ["amount"]
        assert (await api.call(f"GET /credits?key_id={key_id}", admin=True)).json["available"] == 5

    with_api(test)


def test_a_promo_only_gives_and_an_adjustment_takes_no_more_than_there_is(with_api):
    async def test(api):
        key_id = (await api.new_key(credits=5))["key_id"]

        async def adjust(**changes):
            return await api.call("POST /credits/adjustments", adjustment(key_id, **changes), admin=True)

        assert list((await adjust(amount=-1)).errors) == ["amount"]
        assert list((await adjust(amount=-6, kind="adjustment")).errors) == ["amount"]
        taken = await adjust(amount=-5, kind="adjustment")
        assert (taken.json["amount"], taken.json["balance_after"]) == (-5, 0)

    with_api(test)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "purchase"),
        ("kind", "spend"),
        ("kind", None),
        ("reason", ""),
        ("reason", "a\0b"),
        ("reason", "\ud800"),
        ("reason", "x" * 501),
        ("reference", ""),
        ("reference", "a b"),
        ("reference", "ä"),
        ("reference", "x" * 129),
        ("reference", "signup:alice"),
        ("reference", "order:1"),
        ("reference", "create:key_1"),
        ("reference", "first:key_1"),
        ("reference", "short:x"),
        ("key_id", ""),
        ("key_id", "key_unknown"),
        ("key_id", "key\0"),
        ("key_id", 7),
    ],
)
def test_every_other_field_of_an_adjustment_is_checked_by_name(with_api, field, value):
    async def test(api):
        key_id = (await api.new_key(credits=5))["key_id"]
        answer = await api.call("POST /credits/adjustments", {**adjustment(key_id), field: value}, admin=True)
        assert list(answer.errors) == [field]

    with_api(test)


def test_an_admin_can_not_take_a_users_signup_reference(with_api):
    async def test(api):
        key_id = (await api.new_key("bob", credits=0))["key_id"]
        await api.call("POST /credits/adjustments", adjustment(key_id, reference="signup:alice"), admin=True)
        assert (await api.call("POST /api-keys", {}, user="alice")).json["credits"] == 100

    with_api(test)


def test_only_the_admin_adjusts(with_api):
    async def test(api):
        made = await api.new_key(credits=0)
        body = adjustment(made["key_id"])
        assert (await api.call("POST /credits/adjustments", body, user="alice")).slug == "forbidden"
        assert (await api.call("POST /credits/adjustments", body, key=made["api_key"])).slug == "forbidden"
        assert (await api.call("POST /credits/adjustments", body)).slug == "missing-key"

    with_api(test)


def test_history_shows_each_entry_once_newest_first_while_others_arrive(with_api):
    async def test(api):
        made = await api.new_key(credits=1_000)
        secret = made["api_key"].encode()
        for number in range(25):
            await api.provider.settle(await api.provider.hold(secret, 1, "/v1/x", f"r{number}"), 1)
        seen, cursor = [], ""
        while cursor is not None:
            target = f"GET /credits/transactions?limit=7{f'&cursor={cursor}' if cursor else ''}"
            page = (await api.call(target, key=made["api_key"])).json
            assert len(page["transactions"]) <= 7
            seen += page["transactions"]
            cursor = page["next_cursor"]
            await api.provider.settle(await api.provider.hold(secret, 1, "/v1/x", f"later{len(seen)}"), 1)
        assert [entry["request_id"] for entry in seen] == [*(f"r{n}" for n in reversed(range(25))), None]
        assert seen[0].keys() == {
            *("id", "kind", "amount", "balance_after", "route", "request_id", "reason", "reference", "created_at"),
        }
        assert (seen[-1]["kind"], seen[-1]["amount"]) == ("promo", 1_000)

    with_api(test)


def test_list_of_keys_pages_over_all_of_them_once(with_any_api):
    async def test(api):
        made = {(await api.new_key("alice", credits=1))["key_id"] for _ in range(7)}
        await api.new_key("bob", credits=1)
        seen, cursor = [], ""
        while cursor is not None:
            page = (await api.call(f"GET /api-keys?limit=3{f'&cursor={cursor}' if cursor else ''}", user="alice")).json
            seen += [key["key_id"] for key in page["api_keys"]]
            cursor = page["next_cursor"]
        assert len(seen) == 7
        assert set(seen) == made

    with_any_api(test)


def test_a_full_last_page_has_no_next(with_api):
    async def test(api):
        for _ in range(2):
            await api.new_key("alice", credits=1)
        assert (await api.call("GET /api-keys?limit=2", user="alice")).json["next_cursor"] is None
        assert (await api.call("GET /api-keys?limit=1", user="alice")).json["next_cursor"] is not None

    with_api(test)


CURSORS = ["x", "a.b", "%00", "azpr", "ZTotMQ", "ZTow=", "a" * 401, "azo", "ZTo5OTk5OTk5OTk5OTk5OTk5OTk5", "ZTox/w"]


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize("call", ["GET /credits/transactions", "GET /api-keys"])
def test_what_is_no_cursor_is_refused_by_name(with_api, call, cursor):
    async def test(api):
        made = await api.new_key()
        assert list((await api.call(f"{call}?cursor={cursor}", key=made["api_key"])).errors) == ["cursor"]

    with_api(test)


def test_a_cursor_gives_no_right_to_anothers_history(with_api):
    async def test(api):
        made = [await api.new_key(user, credits=1) for user in ("alice", "bob")]
        for key in made:
            for n in range(3):
                hold = await api.provider.hold(key["api_key"].encode(), 0 if n else 1, "/v1/x", f"{key['key_id']}{n}")
                await api.provider.settle(hold, hold.cost)
        theirs = (await api.call("GET /credits/transactions?limit=1", key=made[0]["api_key"])).json["next_cursor"]
        answer = await api.call(f"GET /credits/transactions?cursor={theirs}", key=made[1]["api_key"])
        assert answer.json["transactions"] == []

    with_api(test)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.0", "1_0", "ten", "", "9" * 40, "%D9%A1", "+5", "%205"])
def test_what_is_no_limit_is_refused_by_name(with_api, limit):
    async def test(api):
        assert list((await api.call(f"GET /api-keys?limit={limit}", admin=True)).errors) == ["limit"]

    with_api(test)


def test_a_caller_who_leaves_does_not_leave_an_adjustment_half_done(with_api):
    async def test(api):
        key_id = (await api.new_key(credits=0))["key_id"]
        call = asyncio.create_task(
            api.call("POST /credits/adjustments", adjustment(key_id, 7), admin=True, once="left-in-the-middle")
        )
        await asyncio.sleep(0.005)
        call.cancel()
        await api.background.aclose()
        again = await api.call(
            "POST /credits/adjustments", adjustment(key_id, 7), admin=True, once="left-in-the-middle"
        )
        assert again.status == 201
        assert (await api.call(f"GET /credits?key_id={key_id}", admin=True)).json["available"] == 7

    with_api(test)
