"""Unkey's own client finds the stand-in to be Unkey: it reads every answer, and reads what is there."""

from __future__ import annotations

import pytest
from unkey.py import errors

from gateway.sandbox.unkey.settings import Settings
from tests.sandbox.unkey_caller import API_ID, START_SECONDS, tell
from tests.sandbox.unkey_sdk import unkey_sdk

EXPIRES = START_SECONDS * 1000 + 60_000
LIMIT = {"name": "calls", "limit": 2, "duration": 60_000, "auto_apply": True}
REFILL = {"interval": "monthly", "amount": 9, "refill_day": 3}
FULL = {
    "name": "mine",
    "external_id": "user-1",
    "prefix": "gw",
    "byte_length": 32,
    "meta": {"plan": "pro"},
    "permissions": ["read"],
    "roles": ["admin"],
    "expires": EXPIRES,
    "credits": {"remaining": 10, "refill": REFILL},
    "ratelimits": [LIMIT],
    "enabled": True,
}


async def make(sdk, **fields):
    """A key by the official client: its id and its secret."""
    made = (await sdk.call("keys.createKey", api_id=API_ID, **fields))["data"]
    return made["keyId"], made["key"]


@pytest.mark.parametrize("fields", [{}, FULL], ids=["plain", "full"])
@pytest.mark.parametrize(
    ("call", "wishes"),
    [
        ("keys.verifyKey", {}),
        ("keys.verifyKey", {"credits": {"cost": 4}, "permissions": "read", "tags": ["a"]}),
        ("keys.verifyKey", {"credits": {"cost": 99}}),
        ("keys.verifyKey", {"permissions": "write"}),
        ("keys.verifyKey", {"ratelimits": [{"name": "brought", "limit": 1, "duration": 1000, "cost": 2}]}),
        ("keys.updateCredits", {"operation": "set", "value": 3}),
        ("keys.updateCredits", {"operation": "set", "value": None}),
        ("keys.getKey", {}),
        ("keys.whoami", {}),
        ("keys.updateKey", {"enabled": False, "name": None, "credits": {"remaining": 3}}),
        ("keys.deleteKey", {}),
        ("keys.rerollKey", {"expiration": 0}),
        ("apis.listKeys", {"limit": 1}),
        ("apis.listKeys", {"external_id": "nobody"}),
    ],
)
def test_the_official_client_reads_from_each_answer_just_what_is_in_it(call, wishes, fields):
    async def story(unkey):
        async with unkey_sdk(unkey.server.url) as sdk:
            key_id, key = await make(sdk, **fields)
            await make(sdk)
            subject = {"api_id": API_ID} if call == "apis.listKeys" else {"key_id": key_id}
            subject = {"key": key} if call in ("keys.verifyKey", "keys.whoami") else subject
            result = await sdk.call(call, **subject, **wishes)
            assert result == sdk.answer.json()

    tell(story)


def test_the_official_client_and_raw_calls_agree_on_what_there_is():
    async def story(unkey):
        async with unkey_sdk(unkey.server.url) as sdk:
            key_id, key = await make(sdk, **FULL)
            raw = {
                "keys.getKey": await unkey.data("keys.getKey", keyId=key_id),
                "keys.whoami": await unkey.data("keys.whoami", key=key),
                "apis.listKeys": await unkey.data("apis.listKeys", apiId=API_ID),
            }
            assert (await sdk.call("keys.getKey", key_id=key_id))["data"] == raw["keys.getKey"]
            assert (await sdk.call("keys.whoami", key=key))["data"] == raw["keys.whoami"]
            assert (await sdk.call("apis.listKeys", api_id=API_ID))["data"] == raw["apis.listKeys"]
            free = await unkey.verify(key, credits={"cost": 0})
            again = (await sdk.call("keys.verifyKey", key=key, credits={"cost": 0}))["data"]
            for verdict in (free, again):
                del verdict["ratelimits"][0]["remaining"]
            assert free == again

    tell(story)


def test_the_official_client_and_raw_calls_change_credits_alike():
    steps = [("increment", 5), ("decrement", 3), ("decrement", 99), ("set", 7), ("increment", 1)]

    async def story(unkey):
        async with unkey_sdk(unkey.server.url) as sdk:
            (ours, _), (theirs, _) = await make(sdk, credits={"remaining": 10}), await unkey.create(10)
            for operation, value in steps:
                result = await sdk.call("keys.updateCredits", key_id=ours, operation=operation, value=value)
                assert result["data"] == await unkey.update_credits(theirs, operation, value)
            assert await unkey.stored(ours) == await unkey.stored(theirs) == 8

    tell(story)


def test_the_official_client_pages_through_every_key():
    async def story(unkey):
        async with unkey_sdk(unkey.server.url) as sdk:
            made = {(await unkey.create())[0] for _ in range(5)}
            found, cursor = [], None
            while True:
                page = await sdk.call("apis.listKeys", api_id=API_ID, limit=2, cursor=cursor)
                found += [key["keyId"] for key in page["data"]]
                cursor = page["pagination"].get("cursor")
                if not page["pagination"]["hasMore"]:
                    break
            assert len(found) == 5
            assert set(found) == made

    tell(story)


def test_the_official_client_rerolls_a_key_that_then_works():
    async def story(unkey):
        async with unkey_sdk(unkey.server.url) as sdk:
            key_id, old = await make(sdk, **FULL)
            made = (await sdk.call("keys.rerollKey", key_id=key_id, expiration=0))["data"]
            assert (await sdk.call("keys.verifyKey", key=made["key"]))["data"]["code"] == "VALID"
            assert (await sdk.call("keys.verifyKey", key=old))["data"]["code"] == "EXPIRED"

    tell(story)


@pytest.mark.parametrize(
    ("call", "wishes", "error", "kind"),
    [
        ("keys.getKey", {"key_id": "key_none"}, errors.NotFoundErrorResponse, "unkey/data/key_not_found"),
        ("keys.whoami", {"key": "none"}, errors.NotFoundErrorResponse, "unkey/data/key_not_found"),
        ("keys.deleteKey", {"key_id": "key_none"}, errors.NotFoundErrorResponse, "unkey/data/key_not_found"),
        ("keys.createKey", {"api_id": "api_none"}, errors.NotFoundErrorResponse, "unkey/data/api_not_found"),
        ("apis.listKeys", {"api_id": "api_none"}, errors.NotFoundErrorResponse, "unkey/data/api_not_found"),
        (
            "keys.createKey",
            {"api_id": API_ID, "external_id": "a@b"},
            errors.BadRequestErrorResponse,
            "unkey/application/invalid_input",
        ),
        ("keys.verifyKey", {"key": ""}, errors.BadRequestErrorResponse, "unkey/application/invalid_input"),
    ],
)
def test_the_official_client_knows_each_error_by_its_class(call, wishes, error, kind):
    async def story(unkey):
        async with unkey_sdk(unkey.server.url) as sdk:
            with pytest.raises(error) as raised:
                await sdk.call(call, **wishes)
            assert raised.value.data.error.type == f"https://unkey.com/docs/errors/{kind}"
            assert raised.value.data.model_dump(by_alias=True) == sdk.answer.json()

    tell(story)


def test_the_official_client_knows_an_unknown_root_key():
    async def story(unkey):
        async with unkey_sdk(unkey.server.url, root_key="unkey_other") as sdk:
            with pytest.raises(errors.UnauthorizedErrorResponse):
                await sdk.call("keys.verifyKey", key="x")

    tell(story)


@pytest.mark.parametrize(("status", "error"), [(500, errors.InternalServerErrorResponse), (503, errors.APIError)])
def test_the_official_client_is_told_of_a_failure_once_and_asks_once(status, error):
    async def story(unkey):
        key_id, _ = await unkey.create(10)
        unkey.faults.set(kind="error", status=status, takes_effect=True)
        async with unkey_sdk(unkey.server.url) as sdk:
            with pytest.raises(error):
                await sdk.call("keys.updateCredits", key_id=key_id, operation="increment", value=1)
        assert len(unkey.server.books.updates) == 1

    tell(story)


def test_the_official_client_does_not_know_the_workspace_limit_by_its_class():
    """It asks for application/json, is given that, and looks for a problem."""

    async def story(unkey):
        async with unkey_sdk(unkey.server.url) as sdk:
            with pytest.raises(errors.APIError) as raised:
                await sdk.call("keys.verifyKey", key="x")
            assert raised.value.status_code == 429

    tell(story, settings=Settings(workspace_limit_per_minute=0))
