"""The stand-in's calls that make, show, change and remove keys."""

from __future__ import annotations

import re

import pytest

from gateway.sandbox.unkey.settings import Settings
from tests.sandbox.unkey_caller import API_ID, START_SECONDS, tell

START_MS = START_SECONDS * 1000
LIMIT = {"name": "calls", "limit": 2, "duration": 60_000, "autoApply": True}
INVALID_INPUT = (400, "unkey/application/invalid_input")


def test_a_key_is_shown_with_all_that_it_was_made_with():
    fields = {
        "name": "mine",
        "meta": {"plan": "pro"},
        "permissions": ["read", "write"],
        "roles": ["admin"],
        "expires": START_MS + 1,
        "enabled": False,
        "credits": {"remaining": 5, "refill": {"interval": "monthly", "amount": 9, "refillDay": 31}},
    }

    async def story(unkey):
        key_id, key = await unkey.create(prefix="gw", externalId="auth0.user_1-x", ratelimits=[LIMIT], **fields)
        shown = await unkey.data("keys.getKey", keyId=key_id)
        assert shown == await unkey.data("keys.whoami", key=key)
        assert shown.pop("identity")["externalId"] == "auth0.user_1-x"
        (limit,) = shown.pop("ratelimits")
        assert limit.pop("id").startswith("rl_")
        assert limit == LIMIT
        assert shown == {**fields, "keyId": key_id, "start": key[:7], "createdAt": START_MS}

    tell(story)


def test_a_plain_key_is_shown_without_what_it_has_not():
    async def story(unkey):
        key_id, key = await unkey.create()
        assert await unkey.data("keys.getKey", keyId=key_id) == {
            "keyId": key_id,
            "start": key[:4],
            "enabled": True,
            "createdAt": START_MS,
        }

    tell(story)


def test_a_key_tells_when_it_was_used_last():
    async def story(unkey):
        key_id, key = await unkey.create()
        unkey.clock.advance(7)
        await unkey.verify(key)
        assert (await unkey.data("keys.getKey", keyId=key_id))["lastUsedAt"] == START_MS + 7000

    tell(story)


def test_whoami_spends_nothing():
    async def story(unkey):
        key_id, key = await unkey.create(5)
        await unkey.data("keys.whoami", key=key)
        assert await unkey.stored(key_id) == 5

    tell(story)


def test_secrets_have_their_prefix_and_no_two_are_the_same():
    async def story(unkey):
        keys = [(await unkey.create(prefix="gw", byteLength=32))[1] for _ in range(5)]
        assert len(set(keys)) == 5
        assert all(re.fullmatch(r"gw_[1-9A-HJ-NP-Za-km-z]{40,44}", key) for key in keys)

    tell(story)


def test_creating_twice_makes_two_funded_keys():
    async def story(unkey):
        first, second = [await unkey.create(5, externalId="user-1") for _ in range(2)]
        assert first != second
        assert [await unkey.stored(first[0]), await unkey.stored(second[0])] == [5, 5]

    tell(story)


@pytest.mark.parametrize("external_id", ["a@example.com", "auth0|123", "urn:user", "two words", "ä", ""])
def test_an_owner_can_not_have_any_id(external_id):
    async def story(unkey):
        refusal = await unkey.refused("keys.createKey", apiId=API_ID, externalId=external_id, fits=False)
        assert refusal == INVALID_INPUT

    tell(story)


@pytest.mark.parametrize(
    "credits",
    [
        {"remaining": None, "refill": {"interval": "daily", "amount": 1}},
        {"remaining": 1, "refill": {"interval": "monthly", "amount": 1}},
    ],
)
def test_a_refill_needs_credits_and_a_monthly_one_its_day(credits):
    async def story(unkey):
        assert await unkey.refused("keys.createKey", apiId=API_ID, credits=credits) == INVALID_INPUT

    tell(story)


def test_a_key_can_not_be_made_recoverable_without_a_vault():
    async def story(unkey):
        refusal = await unkey.refused("keys.createKey", apiId=API_ID, recoverable=True)
        assert refusal == (412, "unkey/application/precondition_failed")

    tell(story)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("keys.getKey", {}),
        ("keys.updateCredits", {"operation": "set", "value": 1}),
        ("keys.updateKey", {"enabled": False}),
        ("keys.deleteKey", {}),
        ("keys.rerollKey", {"expiration": 0}),
    ],
)
def test_a_call_for_a_key_that_is_not_there_says_so(call, body):
    async def story(unkey):
        key_id, _ = await unkey.create(5)
        await unkey.data("keys.deleteKey", keyId=key_id, permanent=True)
        for missing in ("key_unknown", key_id):
            assert await unkey.refused(call, keyId=missing, **body) == (404, "unkey/data/key_not_found")

    tell(story)


def test_whoami_of_no_key_says_so():
    async def story(unkey):
        assert await unkey.refused("keys.whoami", key="nobody") == (404, "unkey/data/key_not_found")

    tell(story)


@pytest.mark.parametrize("call", ["keys.createKey", "apis.listKeys"])
def test_an_api_that_is_not_there_is_not_found(call):
    async def story(unkey):
        assert await unkey.refused(call, apiId="api_unknown") == (404, "unkey/data/api_not_found")

    tell(story)


# Lists.


async def read_pages(unkey, **body):
    """Every key of all pages, having checked what is said about the pages."""
    found, pages = [], 0
    while True:
        answer = await unkey.ask("apis.listKeys", {"apiId": API_ID, **body})
        found += [key["keyId"] for key in answer.document["data"]]
        pages += 1
        pagination = answer.document["pagination"]
        if not pagination["hasMore"]:
            assert "cursor" not in pagination
            return found, pages
        assert len(answer.document["data"]) == body["limit"]
        body["cursor"] = pagination["cursor"]


def test_a_list_gives_every_key_once_page_by_page():
    async def story(unkey):
        made = sorted([(await unkey.create())[0] for _ in range(7)])
        assert await read_pages(unkey, limit=3) == (made, 3)
        assert await read_pages(unkey, limit=7) == (made, 1)
        assert await read_pages(unkey) == (made, 1)

    tell(story)


def test_a_list_of_one_owner_has_that_owners_keys_alone():
    async def story(unkey):
        theirs = sorted([(await unkey.create(externalId="user-1"))[0] for _ in range(3)])
        await unkey.create(externalId="user-10")
        await unkey.create()
        assert await read_pages(unkey, externalId="user-1", limit=2) == (theirs, 2)
        assert await read_pages(unkey, externalId="nobody") == ([], 1)

    tell(story)


def test_a_key_that_is_deleted_while_pages_are_read_hides_no_other():
    async def story(unkey):
        made = sorted([(await unkey.create())[0] for _ in range(4)])
        first = await unkey.ask("apis.listKeys", {"apiId": API_ID, "limit": 2})
        await unkey.data("keys.deleteKey", keyId=made[2])
        cursor = first.document["pagination"]["cursor"]
        rest = await unkey.data("apis.listKeys", apiId=API_ID, limit=2, cursor=cursor)
        assert [key["keyId"] for key in rest] == made[3:]

    tell(story)


def test_an_api_lists_its_own_keys():
    async def story(unkey):
        await unkey.create()
        assert await unkey.data("apis.listKeys", apiId="api_other") == []

    tell(story, api_ids=(API_ID, "api_other"))


# Changes.


def test_an_update_changes_what_it_names_and_null_clears():
    async def story(unkey):
        key_id, key = await unkey.create(5, name="mine", externalId="user-1", meta={"a": 1}, expires=START_MS + 9)
        unkey.clock.advance(0.002)
        assert await unkey.data("keys.updateKey", keyId=key_id, name="yours", permissions=["read"]) == {}
        shown = await unkey.data("keys.getKey", keyId=key_id)
        assert (shown["name"], shown["permissions"], shown["meta"]) == ("yours", ["read"], {"a": 1})
        assert (shown["updatedAt"], shown["createdAt"]) == (START_MS + 2, START_MS)
        await unkey.data(
            "keys.updateKey", keyId=key_id, name=None, externalId=None, meta=None, expires=None, permissions=[]
        )
        assert (await unkey.data("keys.getKey", keyId=key_id)).keys() == {
            "keyId", "start", "enabled", "createdAt", "updatedAt", "credits",
        }  # fmt: skip
        assert (await unkey.verify(key))["code"] == "VALID"

    tell(story)


def test_an_update_of_rate_limits_keeps_the_id_of_those_that_stay():
    async def story(unkey):
        key_id, _ = await unkey.create(ratelimits=[LIMIT, {**LIMIT, "name": "other"}])
        before = {limit["name"]: limit["id"] for limit in (await unkey.data("keys.getKey", keyId=key_id))["ratelimits"]}
        await unkey.data("keys.updateKey", keyId=key_id, ratelimits=[{**LIMIT, "limit": 9}])
        (limit,) = (await unkey.data("keys.getKey", keyId=key_id))["ratelimits"]
        assert limit == {**LIMIT, "limit": 9, "id": before["calls"]}

    tell(story)


@pytest.mark.parametrize(
    ("change", "credits"),
    [
        (None, None),
        ({"remaining": None}, None),
        ({"remaining": 7}, {"remaining": 7, "refill": {"interval": "daily", "amount": 9}}),
        ({"refill": None}, {"remaining": 5}),
        (
            {"refill": {"interval": "monthly", "amount": 3, "refillDay": 1}},
            {"remaining": 5, "refill": {"interval": "monthly", "amount": 3, "refillDay": 1}},
        ),
    ],
)
def test_an_update_of_credits_is_partial_too(change, credits):
    async def story(unkey):
        key_id, _ = await unkey.create(credits={"remaining": 5, "refill": {"interval": "daily", "amount": 9}})
        await unkey.data("keys.updateKey", keyId=key_id, credits=change)
        assert (await unkey.data("keys.getKey", keyId=key_id)).get("credits") == credits
        # A refill of an unlimited key would not be shown; it would be back with its credits.
        expected = {**(credits or {}), "remaining": 1}
        assert await unkey.update_credits(key_id, "set", 1) == expected

    tell(story)


@pytest.mark.parametrize(
    "refill", [{"interval": "monthly", "amount": 1}, {"interval": "daily", "amount": 1, "refillDay": 1}]
)
def test_an_update_to_a_refill_of_the_wrong_kind_changes_nothing(refill):
    async def story(unkey):
        key_id, _ = await unkey.create(5, name="mine")
        refusal = await unkey.refused("keys.updateKey", keyId=key_id, name="yours", credits={"refill": refill})
        assert refusal == INVALID_INPUT
        assert (await unkey.data("keys.getKey", keyId=key_id))["name"] == "mine"

    tell(story)


def test_an_update_drops_the_live_counter_only_if_it_names_credits():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.cost(key, 4)
        await unkey.data("keys.updateKey", keyId=key_id, name="yours")
        assert await unkey.cost(key, 0) == ("VALID", 6)
        await unkey.data("keys.updateKey", keyId=key_id, credits={"remaining": 20})
        assert await unkey.cost(key, 0) == ("VALID", 20)

    tell(story, settings=Settings(replay_lag_seconds=60))


# Rerolls.


def test_a_reroll_copies_the_stored_credits_and_leaves_them_on_the_old_key_too():
    async def story(unkey):
        old_id, old = await unkey.create(10, prefix="gw", name="mine", externalId="user-1", ratelimits=[LIMIT])
        await unkey.cost(old, 4)
        made = await unkey.data("keys.rerollKey", keyId=old_id, expiration=60_000)
        assert made["keyId"] != old_id
        assert made["key"].startswith("gw_")
        shown = [await unkey.data("keys.getKey", keyId=key_id) for key_id in (old_id, made["keyId"])]
        assert [key["credits"] for key in shown] == [{"remaining": 10}, {"remaining": 10}]
        assert (shown[1]["name"], shown[1]["identity"]) == ("mine", shown[0]["identity"])
        assert shown[0]["ratelimits"][0]["id"] != shown[1]["ratelimits"][0]["id"]
        assert await unkey.cost(made["key"], 10) == ("VALID", 0)
        assert await unkey.cost(old, 6) == ("VALID", 0)

    tell(story, settings=Settings(replay_lag_seconds=60))


def test_a_reroll_with_expiration_zero_ends_the_old_key_now():
    async def story(unkey):
        key_id, key = await unkey.create()
        unkey.clock.advance(1)
        made = await unkey.data("keys.rerollKey", keyId=key_id, expiration=0)
        assert (await unkey.verify(key))["code"] == "EXPIRED"
        assert (await unkey.verify(made["key"]))["code"] == "VALID"

    tell(story)


def test_a_reroll_does_not_reach_cached_rows():
    async def story(unkey):
        key_id, key = await unkey.create()
        await unkey.verify(key)
        await unkey.data("keys.rerollKey", keyId=key_id, expiration=0)
        assert (await unkey.verify(key))["code"] == "VALID"

    tell(story, settings=Settings(key_cache_seconds=10))


def test_the_grace_of_a_reroll_is_rounded_up_to_a_full_minute():
    async def story(unkey):
        key_id, _ = await unkey.create()
        unkey.clock.advance(1)
        await unkey.data("keys.rerollKey", keyId=key_id, expiration=1000)
        assert (await unkey.data("keys.getKey", keyId=key_id))["expires"] == START_MS + 60_000

    tell(story)
