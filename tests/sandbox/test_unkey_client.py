"""The gateway's own client and Unkey's official one, side by side on one stand-in: they ask and understand alike."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from unkey.py import errors

from gateway.credits.provider import NO_POLICY, Policy, RateLimit
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.errors import UnkeyRefused, UnkeyUnavailable
from gateway.deadlines import Deadlines
from gateway.sandbox.unkey.settings import Settings
from gateway.upstreams.rpc import RpcClient
from tests.sandbox.openapi import fits_request
from tests.sandbox.unkey_caller import API_ID, ROOT_KEY, START_SECONDS, tell
from tests.sandbox.unkey_sdk import unkey_sdk

NOW_MS = START_SECONDS * 1000
ROUTE = "/v1/personas"
LIMITED = Policy(rate_limit=RateLimit(1, 60))
ERRORS_URL = "https://unkey.com/docs/errors/"


@asynccontextmanager
async def clients(unkey, root_key=ROOT_KEY):
    """Our client and the official one. All that ours has sent is then held against Unkey's description."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, tick_seconds=0.02)
    wires = [RpcClient(unkey.server.url, deadlines, loop) for _ in range(2)]
    ours = UnkeyClient(*wires, api_id=API_ID, root_key=root_key, admin_root_key=root_key)
    try:
        async with unkey_sdk(unkey.server.url, root_key) as official:
            yield ours, official
    finally:
        await ours.aclose()
        deadlines.close()
        for received in unkey.server.books.requests:
            asked = received.asked
            assert fits_request(asked.call, json.loads(asked.raw_body)) or received.status == 400


def beside(story, *, root_key=ROOT_KEY, **options):
    """Runs `story(unkey, ours, official)`."""

    async def run(unkey):
        async with clients(unkey, root_key) as pair:
            return await story(unkey, *pair)

    return tell(run, **options)


def as_official(verdict):
    """What our client knows of a verdict, in the official client's words."""
    told = {"valid": verdict.is_valid, "code": verdict.code, "enabled": verdict.enabled}
    told |= {"keyId": verdict.key_id} if verdict.key_id else {}
    told |= {"credits": verdict.credits} if verdict.credits is not None else {}
    if verdict.user_id:
        told["user"] = verdict.user_id
    if verdict.rate_limit is not None:
        told["rate_limit"] = verdict.rate_limit
    return told


def reduced(data):
    """What of a verdict our client has a use for."""
    told = {name: data[name] for name in ("valid", "code", "keyId", "credits") if name in data}
    told["enabled"] = data.get("enabled", True)
    if "identity" in data:
        told["user"] = data["identity"]["externalId"]
    for limit in data.get("ratelimits", [])[:1]:
        told["rate_limit"] = (limit["limit"], limit["remaining"], limit["reset"])
    return told


@pytest.mark.parametrize(
    ("fields", "cost", "policy", "wishes"),
    [
        ({}, 5, NO_POLICY, {}),
        ({"credits": 10}, 4, NO_POLICY, {}),
        ({"credits": 10, "externalId": "user-1"}, 0, NO_POLICY, {}),
        ({"credits": 0}, 0, NO_POLICY, {}),
        ({"credits": 3}, 4, NO_POLICY, {}),
        ({"enabled": False, "credits": 3}, 1, NO_POLICY, {}),
        ({"expires": NOW_MS}, 1, NO_POLICY, {}),
        ({"permissions": ["read"]}, 1, Policy("read OR write"), {"permissions": "read OR write"}),
        ({"permissions": ["read"]}, 1, Policy("write"), {"permissions": "write"}),
        (
            {"ratelimits": [{"name": "calls", "limit": 1, "duration": 60_000, "autoApply": True}]},
            1,
            NO_POLICY,
            {},
        ),
        ({}, 1, LIMITED, {"ratelimits": [{"name": f"gateway:{ROUTE}", "limit": 1, "duration": 60_000, "cost": 1}]}),
    ],
)
def test_verdicts_are_understood_alike(fields, cost, policy, wishes):
    """Each client verifies a key of its own, twice, so that limits are met."""

    async def story(unkey, ours, official):
        (our_id, our_key), (their_id, their_key) = [unkey.server.create_key(**fields) for _ in range(2)]
        for _ in range(2):
            verdict = as_official(await ours.verify(our_key.encode(), cost, policy, ROUTE, "request"))
            result = await official.call("keys.verifyKey", key=their_key, credits={"cost": cost}, **wishes)
            expected = reduced(result["data"])
            assert (verdict.pop("keyId"), expected.pop("keyId")) == (our_id, their_id)
            assert verdict == expected
        assert unkey.balances.spent[our_id] == unkey.balances.spent[their_id]

    beside(story)


@pytest.mark.parametrize("key", ["gw_unknown", 'a"\\b', "käse", "x" * 512])
def test_a_key_that_is_none_is_not_found_by_either(key):
    async def story(unkey, ours, official):
        verdict = await ours.verify(key.encode(), 5, NO_POLICY, ROUTE, "request")
        result = await official.call("keys.verifyKey", key=key, credits={"cost": 5})
        assert as_official(verdict) == reduced(result["data"])
        bodies = [json.loads(received.asked.raw_body) for received in unkey.server.books.requests]
        assert [body["key"] for body in bodies] == [key, key]

    beside(story)


def test_a_key_is_shown_alike():
    async def story(unkey, ours, official):
        made = [
            unkey.server.create_key(),
            unkey.server.create_key(
                7, name="mine", externalId="user-1", expires=NOW_MS + 9, enabled=False, permissions=["read"]
            ),
        ]
        for key_id, _ in made:
            shown = (await official.call("keys.getKey", key_id=key_id))["data"]
            assert in_official_words(await ours.get_key(key_id)) == seen(shown)
        listed = (await official.call("apis.listKeys", api_id=API_ID))["data"]
        keys, cursor = await ours.list_keys(user_id=None, cursor=None, limit=100)
        assert cursor is None
        assert [in_official_words(key) for key in keys] == [seen(key) for key in listed]

    beside(story)


def in_official_words(key):
    """A key as our client knows it."""
    return {
        "keyId": key.key_id,
        "start": key.start,
        "enabled": key.enabled,
        "createdAt": key.created_at,
        "name": key.name,
        "expires": key.expires_at,
        "externalId": key.user_id or None,
        "remaining": key.credits,
        "permissions": list(key.permissions),
    }


def seen(shown):
    """What of a shown key our client has a use for."""
    told = {name: shown.get(name) for name in ("keyId", "start", "enabled", "createdAt", "name", "expires")}
    told["externalId"] = shown.get("identity", {}).get("externalId")
    told["remaining"] = shown.get("credits", {}).get("remaining")
    told["permissions"] = shown.get("permissions", [])
    return told


def test_pages_are_turned_alike():
    async def story(unkey, ours, official):
        for number in range(5):
            unkey.server.create_key(externalId=f"user-{number % 2}")
        for user_id in (None, "user-1", "nobody"):
            cursor = None
            while True:
                wishes = {"api_id": API_ID, "limit": 2, "cursor": cursor, "external_id": user_id}
                page = await official.call("apis.listKeys", **wishes)
                keys, after = await ours.list_keys(user_id=user_id, cursor=cursor, limit=2)
                assert [key.key_id for key in keys] == [key["keyId"] for key in page["data"]]
                assert after == page["pagination"].get("cursor")
                if after is None:
                    break
                cursor = after

    beside(story)


def test_keys_are_made_alike():
    fields = {"prefix": "gw", "byte_length": 32, "name": "mine", "external_id": "user-1", "permissions": ["read"]}

    async def story(unkey, ours, official):
        key_id, secret = await ours.create_key(
            "user-1", credits=5, name="mine", expires_at=NOW_MS + 9, permissions=["read"]
        )
        made = await official.call(
            "keys.createKey", api_id=API_ID, credits={"remaining": 5}, expires=NOW_MS + 9, **fields
        )
        shown = [await unkey.data("keys.getKey", keyId=one) for one in (key_id, made["data"]["keyId"])]
        assert (await unkey.data("keys.whoami", key=secret))["keyId"] == key_id
        for key in shown:
            del key["keyId"], key["start"]
        assert shown[0] == shown[1]
        assert len(secret) - len(made["data"]["key"]) in (-1, 0, 1)

    beside(story)


def test_an_unlimited_key_is_made_alike():
    async def story(unkey, ours, official):
        key_id, _ = await ours.create_key("auth0|user", credits=None, name=None, expires_at=None)
        made = await official.call("keys.createKey", api_id=API_ID, external_id="u8.YXV0aDB8dXNlcg")
        shown = [await ours.get_key(one) for one in (key_id, made["data"]["keyId"])]
        assert [(key.credits, key.user_id) for key in shown] == [(None, "auth0|user")] * 2

    beside(story)


@pytest.mark.parametrize(("operation", "value"), [("increment", 5), ("decrement", 3), ("decrement", 99)])
def test_credits_are_changed_alike(operation, value):
    async def story(unkey, ours, official):
        (our_id, _), (their_id, _) = [unkey.server.create_key(10) for _ in range(2)]
        remaining, request_id = await ours.update_credits(our_id, operation, value)
        result = await official.call("keys.updateCredits", key_id=their_id, operation=operation, value=value)
        assert remaining == result["data"]["remaining"] == await unkey.stored(our_id)
        assert request_id == unkey.server.books.updates[0].asked.request_id
        assert len(unkey.server.books.updates) == 2

    beside(story)


def test_a_key_is_changed_alike():
    async def story(unkey, ours, official):
        (our_id, _), (their_id, _) = [unkey.server.create_key(10) for _ in range(2)]
        assert await ours.update_key(our_id, enabled=False, name="mine", expires_at=NOW_MS, permissions=["write"])
        await official.call(
            "keys.updateKey", key_id=their_id, enabled=False, name="mine", expires=NOW_MS, permissions=["write"]
        )
        shown = [await unkey.data("keys.getKey", keyId=key_id) for key_id in (our_id, their_id)]
        for key in shown:
            del key["keyId"], key["start"]
        assert shown[0] == shown[1]

    beside(story)


def test_a_key_is_deleted_and_rerolled_alike():
    async def story(unkey, ours, official):
        (our_id, our_key), (their_id, their_key) = [unkey.server.create_key(10) for _ in range(2)]
        new_id, new_key = await ours.reroll_key(our_id)
        result = await official.call("keys.rerollKey", key_id=their_id, expiration=0)
        for old, new in ((our_key, new_key), (their_key, result["data"]["key"])):
            assert (await unkey.verify(old))["code"] == "EXPIRED"
            assert await unkey.cost(new, 1) == ("VALID", 9)
        assert await ours.delete_key(new_id) is True
        await official.call("keys.deleteKey", key_id=result["data"]["keyId"])
        assert [(await unkey.verify(key))["code"] for key in (new_key, result["data"]["key"])] == ["NOT_FOUND"] * 2

    beside(story)


def our_calls(ours, key_id):
    """Every call of our client, for this key."""
    return {
        "keys.verifyKey": lambda: ours.verify(b"gw_x", 1, NO_POLICY, ROUTE, "request"),
        "keys.createKey": lambda: ours.create_key("user-1", credits=1, name=None, expires_at=None),
        "keys.updateCredits": lambda: ours.update_credits(key_id, "increment", 1),
        "keys.getKey": lambda: ours.get_key(key_id),
        "apis.listKeys": lambda: ours.list_keys(user_id=None, cursor=None, limit=1),
        "keys.updateKey": lambda: ours.update_key(key_id, enabled=True),
        "keys.deleteKey": lambda: ours.delete_key(key_id),
        "keys.rerollKey": lambda: ours.reroll_key(key_id),
    }


def official_calls(official, key_id):
    """The same calls of the official one."""
    wishes = {
        "keys.verifyKey": {"key": "gw_x", "credits": {"cost": 1}},
        "keys.createKey": {"api_id": API_ID, "external_id": "user-1", "credits": {"remaining": 1}},
        "keys.updateCredits": {"key_id": key_id, "operation": "increment", "value": 1},
        "keys.getKey": {"key_id": key_id},
        "apis.listKeys": {"api_id": API_ID, "limit": 1},
        "keys.updateKey": {"key_id": key_id, "enabled": True},
        "keys.deleteKey": {"key_id": key_id},
        "keys.rerollKey": {"key_id": key_id, "expiration": 0},
    }
    return {call: lambda call=call: official.call(call, **wishes[call]) for call in wishes}


def retry_after(error):
    """When callers are told to come back, in seconds."""
    return int(dict(error.headers)[b"retry-after"])


CALLS = list(official_calls(None, ""))
BY_KEY = ["keys.updateCredits", "keys.getKey", "keys.updateKey", "keys.deleteKey", "keys.rerollKey"]


@pytest.mark.parametrize("call", BY_KEY)
def test_a_missing_key_is_missed_by_both(call):
    """Ours says it by its result, where the official one raises; for credits, which must not go astray, both raise."""

    async def story(unkey, ours, official):
        with pytest.raises(errors.NotFoundErrorResponse):
            await official_calls(official, "key_none")[call]()
        if call == "keys.updateCredits":
            with pytest.raises(UnkeyRefused) as refused:
                await our_calls(ours, "key_none")[call]()
            assert refused.value.is_not_found
        else:
            assert not await our_calls(ours, "key_none")[call]()

    beside(story)


def test_a_refusal_is_the_same_to_both():
    async def story(unkey, ours, official):
        key_id, _ = unkey.server.create_key()
        with pytest.raises(UnkeyRefused) as refused:
            await ours.update_credits(key_id, "increment", 5)
        with pytest.raises(errors.BadRequestErrorResponse) as raised:
            await official.call("keys.updateCredits", key_id=key_id, operation="increment", value=5)
        error = raised.value.data.error
        assert (refused.value.unkey_status, refused.value.unkey_type) == (error.status, error.type)

    beside(story)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("fault", "possibly_executed"),
    [
        ({"kind": "error", "status": 500}, True),
        ({"kind": "error", "status": 503}, True),
        ({"kind": "error", "status": 401}, False),
        ({"kind": "error", "status": 403}, False),
        ({"kind": "limited", "retry_after_seconds": 7}, False),
        ({"kind": "malformed", "how": "html"}, True),
    ],
)
def test_a_failure_is_one_to_both_and_is_asked_for_once_by_each(call, fault, possibly_executed):
    async def story(unkey, ours, official):
        key_id, _ = unkey.server.create_key(10)
        unkey.faults.set(**fault)
        with pytest.raises(errors.UnkeyError) as raised:
            await official_calls(official, key_id)[call]()
        with pytest.raises(UnkeyUnavailable) as unavailable:
            await our_calls(ours, key_id)[call]()
        assert unavailable.value.possibly_executed is possibly_executed
        assert str(raised.value.status_code) in unavailable.value.cause or raised.value.status_code in (401, 403, 429)
        assert retry_after(unavailable.value) == fault.get("retry_after_seconds", 1)
        assert unkey.server.books.calls[call] == 2

    beside(story)


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_root_key_fails_every_call_of_both(call):
    async def story(unkey, ours, official):
        key_id, _ = unkey.server.create_key(10)
        with pytest.raises(errors.UnauthorizedErrorResponse):
            await official_calls(official, key_id)[call]()
        with pytest.raises(UnkeyUnavailable) as unavailable:
            await our_calls(ours, key_id)[call]()
        assert unavailable.value.possibly_executed is False

    beside(story, root_key="unkey_other")


@pytest.mark.parametrize("call", CALLS)
def test_the_workspace_limit_is_no_fault_of_the_key_to_either(call):
    async def story(unkey, ours, official):
        key_id, _ = unkey.server.create_key(10)
        with pytest.raises(errors.APIError) as raised:
            await official_calls(official, key_id)[call]()
        with pytest.raises(UnkeyUnavailable) as unavailable:
            await our_calls(ours, key_id)[call]()
        assert raised.value.status_code == 429
        assert retry_after(unavailable.value) == int(raised.value.headers["retry-after"]) == 60
        assert unavailable.value.possibly_executed is False

    beside(story, settings=Settings(workspace_limit_per_minute=0))
