"""Spend caps over HTTP: whose they are to set, and where they show."""

from __future__ import annotations

import pytest

from gateway.credits.provider import CREDITS_MAX
from gateway.errors import CreditsUnavailable, SpendCapReached
from tests.api.harness import SIGNUP_CREDITS
from tests.credits.capping import APRIL, MIDNIGHT, audit_caps, spend, take

NONE = {"day": None, "month": None}


def cap(limit, spent, resets_at):
    return {"cap": limit, "spent": spent, "resets_at": resets_at}


async def caps_of(api, made):
    """As everybody who may see them does."""
    (listed,) = (
        key
        for key in (await api.call("GET /api-keys", user="alice")).json["api_keys"]
        if key["key_id"] == made["key_id"]
    )
    answers = [
        await api.call(f"GET /credits?key_id={made['key_id']}", admin=True),
        await api.call("GET /credits", key=made["api_key"]),
    ]
    for answer in answers:
        assert answer.json["spend_caps"] == listed["spend_caps"]
    return listed["spend_caps"]


def test_a_key_is_made_with_caps_and_shows_them_with_what_is_spent(with_any_api, any_ledger, clock):
    async def test(api):
        made = await api.new_key(spend_caps={"day": 10, "month": CREDITS_MAX})
        assert await caps_of(api, made) == {"day": cap(10, 0, MIDNIGHT), "month": cap(CREDITS_MAX, 0, APRIL)}
        await spend(api.provider, made["api_key"], 6)
        hold = await take(api.provider, made["api_key"], 3)
        assert await caps_of(api, made) == {"day": cap(10, 9, MIDNIGHT), "month": cap(CREDITS_MAX, 9, APRIL)}
        with pytest.raises(SpendCapReached):
            await take(api.provider, made["api_key"], 2)
        await api.provider.release(hold, "test")
        clock.now = MIDNIGHT
        assert (await caps_of(api, made))["day"]["spent"] == 0
        audit_caps(any_ledger)

    with_any_api(test)


def test_users_cap_their_own_keys_as_they_make_them(with_api):
    async def test(api):
        answer = await api.call("POST /api-keys", {"spend_caps": {"month": 7, "day": None}}, user="alice")
        assert (answer.status, answer.json["credits"]) == (201, SIGNUP_CREDITS)
        caps = await caps_of(api, answer.json)
        assert (caps["day"], caps["month"]["cap"]) == (None, 7)

    with_api(test)


@pytest.mark.parametrize("who", [{"user": "alice"}, {"admin": True}], ids=["its owner", "the admin"])
def test_caps_are_set_changed_and_lifted_by(with_any_api, any_ledger, clock, who):
    async def test(api):
        made = await api.new_key()
        other = await api.new_key()
        await spend(api.provider, made["api_key"], 4)
        for changes, shown in [
            ({"day": 10}, {"day": cap(10, 4, MIDNIGHT), "month": None}),
            ({"month": 20}, {"day": cap(10, 4, MIDNIGHT), "month": cap(20, 4, APRIL)}),
            ({}, {"day": cap(10, 4, MIDNIGHT), "month": cap(20, 4, APRIL)}),
            ({"day": None, "month": 0}, {"day": None, "month": cap(0, 4, APRIL)}),
            ({"month": None}, NONE),
        ]:
            answer = await api.call(f"PATCH /api-keys/{made['key_id']}", {"spend_caps": changes}, **who)
            assert answer.status == 200
            assert (answer.json["key_id"], answer.json["spend_caps"]) == (made["key_id"], shown)
            assert await caps_of(api, made) == shown
        assert await caps_of(api, other) == NONE
        audit_caps(any_ledger)

    with_any_api(test)


def test_a_leaked_key_can_not_lift_its_cap_nor_can_another_user(with_any_api):
    async def test(api):
        made = await api.new_key(spend_caps={"day": 10})
        await api.new_key("bob")
        change = {"spend_caps": {"day": None}}
        path = f"PATCH /api-keys/{made['key_id']}"
        assert (await api.call(path, change, key=made["api_key"])).slug == "forbidden"
        assert (await api.call(path, change, user="bob")).slug == "not-found"
        assert (await api.call(path, change)).slug == "missing-key"
        assert (await api.call("PATCH /api-keys/key_nobody", change, admin=True)).slug == "not-found"
        assert (await caps_of(api, made))["day"]["cap"] == 10

    with_any_api(test)


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, ["spend_caps"]),
        ({"spend_caps": {"day": -1, "month": CREDITS_MAX + 1}}, ["spend_caps.day", "spend_caps.month"]),
        ({"spend_caps": {"day": "none"}}, ["spend_caps.day"]),
        ({"spend_caps": {"year": 1}}, ["spend_caps.year"]),
        ({"spend_caps": {"day": 5}, "credits": 5}, ["credits"]),
    ],
)
def test_what_is_wrong_is_said_by_field_and_changes_nothing(with_api, body, errors):
    async def test(api):
        made = await api.new_key(spend_caps={"day": 10})
        answer = await api.call(f"PATCH /api-keys/{made['key_id']}", body, admin=True)
        assert list(answer.errors) == errors
        caps = await caps_of(api, made)
        assert (caps["day"]["cap"], caps["month"]) == (10, None)

    with_api(test)


def test_a_key_that_is_made_again_under_its_idempotency_key_has_its_caps(with_api):
    """The first try died after it had made the key: the second gives it a new secret."""

    async def fail(*_):
        raise CreditsUnavailable

    async def test(api):
        working, api.provider.grant = api.provider.grant, fail
        body = {"user_id": "alice", "spend_caps": {"day": 10}}
        assert (await api.call("POST /api-keys", body, admin=True, once="a")).status == 503
        api.provider.grant = working
        answer = await api.call("POST /api-keys", body, admin=True, once="a")
        assert answer.status == 201
        assert (await caps_of(api, answer.json))["day"]["cap"] == 10

    with_api(test)


def test_rotating_keeps_the_caps(with_any_api):
    async def test(api):
        made = await api.new_key(spend_caps={"day": 10})
        await spend(api.provider, made["api_key"], 4)
        rotated = await api.call(f"POST /api-keys/{made['key_id']}/rotate", user="alice")
        caps = await caps_of(api, rotated.json)
        assert (caps["day"]["cap"], caps["day"]["spent"]) == (10, 4)

    with_any_api(test)
