"""Who may call the stand-in, with what, and how it says no."""

from __future__ import annotations

import pytest

from gateway.sandbox.unkey.permissions import EVERY_PERMISSION, RootKey
from gateway.sandbox.unkey.settings import Settings
from tests.sandbox.exchange import exchange
from tests.sandbox.openapi import check_response
from tests.sandbox.unkey_caller import API_ID, ROOT_KEY, tell

ERRORS = "https://unkey.com/docs/errors/"
INVALID_INPUT = (400, "unkey/application/invalid_input")
CALLS = {
    "keys.verifyKey": {"key": "{key}"},
    "keys.createKey": {"apiId": API_ID},
    "keys.updateCredits": {"keyId": "{key_id}", "operation": "increment", "value": 1},
    "keys.getKey": {"keyId": "{key_id}"},
    "keys.whoami": {"key": "{key}"},
    "keys.updateKey": {"keyId": "{key_id}", "name": "other"},
    "keys.deleteKey": {"keyId": "{key_id}"},
    "keys.rerollKey": {"keyId": "{key_id}", "expiration": 0},
    "apis.listKeys": {"apiId": API_ID},
}
NEEDS = {
    "keys.verifyKey": ["verify_key"],
    "keys.createKey": ["create_key"],
    "keys.updateCredits": ["update_key"],
    "keys.getKey": ["read_key"],
    "keys.whoami": ["read_key"],
    "keys.updateKey": ["update_key"],
    "keys.deleteKey": ["delete_key"],
    "keys.rerollKey": ["create_key"],
    "apis.listKeys": ["read_key", "read_api"],
}
FORBIDDEN = (403, "unkey/authorization/insufficient_permissions")
KEY_NOT_FOUND = (404, "unkey/data/key_not_found")
API_NOT_FOUND = (404, "unkey/data/api_not_found")
WITHOUT_PERMISSION = {
    "keys.createKey": API_NOT_FOUND,
    "keys.updateCredits": FORBIDDEN,
    "keys.getKey": FORBIDDEN,
    "keys.whoami": KEY_NOT_FOUND,
    "keys.updateKey": FORBIDDEN,
    "keys.deleteKey": FORBIDDEN,
    "keys.rerollKey": FORBIDDEN,
    "apis.listKeys": API_NOT_FOUND,
}


def filled(call, key_id, key):
    return {name: {"{key}": key, "{key_id}": key_id}.get(value, value) for name, value in CALLS[call].items()}


def refusal_of(answer):
    error = answer.document["error"]
    return answer.status, error["type"].removeprefix(ERRORS)


# Authorization.


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_authorization_header_is_a_bad_request_and_no_401(call):
    async def story(unkey):
        answer = await unkey.ask(call, filled(call, "key_x", "x"), authorization=None)
        assert refusal_of(answer) == INVALID_INPUT

    tell(story)


@pytest.mark.parametrize("authorization", [ROOT_KEY, "Bearer", "Bearer  ", f"Basic {ROOT_KEY}", f"bearer {ROOT_KEY}"])
def test_an_authorization_header_of_another_form_is_malformed(authorization):
    async def story(unkey):
        answer = await unkey.ask("keys.verifyKey", {"key": "x"}, authorization=authorization)
        assert refusal_of(answer) == (400, "unkey/authentication/malformed")

    tell(story)


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_root_key_is_unauthorized(call):
    async def story(unkey):
        refusal = await unkey.refused(call, root_key="unkey_other", **filled(call, "key_x", "x"))
        assert refusal == (401, "unkey/authentication/key_not_found")

    tell(story)


def test_a_key_is_no_root_key():
    async def story(unkey):
        _, key = await unkey.create()
        refusal = await unkey.refused("keys.whoami", root_key=key, key=key)
        assert refusal == (401, "unkey/authentication/key_not_found")

    tell(story)


def test_a_disabled_root_key_is_forbidden():
    async def story(unkey):
        refusal = await unkey.refused("keys.verifyKey", root_key="off", key="x")
        assert refusal == (403, "unkey/authorization/key_disabled")

    tell(story, root_keys={"off": RootKey(enabled=False)})


# Permissions.


@pytest.mark.parametrize("scope", ["*", API_ID])
@pytest.mark.parametrize("call", CALLS)
def test_each_call_works_with_no_more_than_its_own_permission(call, scope):
    permissions = tuple(f"api.{scope}.{action}" for action in NEEDS[call])

    async def story(unkey):
        key_id, key = unkey.server.create_key(10)
        answer = await unkey.ask(call, filled(call, key_id, key), root_key="least")
        assert answer.status == 200
        if call == "keys.verifyKey":
            assert answer.document["data"]["code"] == "VALID"

    tell(story, root_keys={"least": RootKey(permissions)})


@pytest.mark.parametrize("call", WITHOUT_PERMISSION)
def test_each_call_is_refused_without_its_permission(call):
    held = tuple(held for held in EVERY_PERMISSION if held.rpartition(".")[2] not in NEEDS[call])
    other_api = tuple(f"api.api_other.{action}" for action in NEEDS[call])

    async def story(unkey):
        key_id, key = unkey.server.create_key(10)
        refusal = await unkey.refused(call, root_key="lacking", **filled(call, key_id, key))
        assert refusal == WITHOUT_PERMISSION[call]
        assert await unkey.stored(key_id) == 10

    tell(story, root_keys={"lacking": RootKey(held + other_api), ROOT_KEY: RootKey()})


@pytest.mark.parametrize("permissions", [(), ("api.*.read_key",), ("api.api_other.verify_key",)])
def test_every_key_is_not_found_for_a_root_key_that_may_not_verify_it(permissions):
    async def story(unkey):
        key_id, key = unkey.server.create_key(10)
        answer = await unkey.ask("keys.verifyKey", {"key": key}, root_key="lacking")
        assert answer.document["data"] == {"valid": False, "code": "NOT_FOUND"}
        assert unkey.balances.spent[key_id] == 0

    tell(story, root_keys={"lacking": RootKey(permissions)})


def test_a_root_key_that_may_verify_nothing_is_forbidden_where_the_setting_says_so():
    async def story(unkey):
        _, key = unkey.server.create_key(10)
        assert await unkey.refused("keys.verifyKey", root_key="lacking", key=key) == FORBIDDEN
        answer = await unkey.ask("keys.verifyKey", {"key": key}, root_key="elsewhere")
        assert answer.document["data"]["code"] == "NOT_FOUND"

    elsewhere = RootKey(("api.api_other.verify_key",))
    settings = Settings(forbids_unscoped_root_keys=True)
    tell(story, root_keys={"lacking": RootKey(()), "elsewhere": elsewhere}, settings=settings)


@pytest.mark.parametrize("call", WITHOUT_PERMISSION)
def test_a_root_key_of_another_workspace_finds_nothing(call):
    async def story(unkey):
        key_id, key = unkey.server.create_key(10)
        status, _ = await unkey.refused(call, root_key="foreign", **filled(call, key_id, key))
        assert status == 404
        answer = await unkey.ask("keys.verifyKey", {"key": key}, root_key="foreign")
        assert answer.document["data"]["code"] == "NOT_FOUND"

    tell(story, root_keys={"foreign": RootKey(workspace="ws_other")})


# The workspace's limit.


def test_calls_over_the_workspace_limit_are_429_and_do_nothing():
    async def story(unkey):
        key_id, key = unkey.server.create_key(10)
        answers = [await unkey.ask("keys.verifyKey", {"key": key}) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert refusal_of(answers[2]) == (429, "user/too_many_requests/workspace_rate_limited")
        told = [answers[2].headers[name] for name in ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset")]
        assert told == ["2", "0", "60"]
        assert answers[2].headers["retry-after"] == "60"
        assert answers[0].headers["ratelimit-remaining"] == "1"
        assert "retry-after" not in answers[0].headers
        assert unkey.balances.spent[key_id] == 2

    tell(story, settings=Settings(workspace_limit_per_minute=2))


# Shapes.


def test_a_request_of_the_wrong_shape_is_refused_before_the_root_key_is_looked_at():
    async def story(unkey):
        refusal = await unkey.refused("keys.verifyKey", root_key="unkey_other", fits=False, kye="x")
        assert refusal == INVALID_INPUT

    tell(story)


@pytest.mark.parametrize(
    ("call", "body", "location"),
    [
        ("keys.verifyKey", {"key": ""}, "body.key"),
        ("keys.verifyKey", {"key": "x" * 513}, "body.key"),
        ("keys.verifyKey", {"key": "x", "apiId": API_ID}, "body.apiId"),
        ("keys.verifyKey", {"key": "x", "remaining": {"cost": 1}}, "body.remaining"),
        ("keys.verifyKey", {"key": "x", "credits": {"cost": -1}}, "body.credits.cost"),
        ("keys.verifyKey", {"key": "x", "credits": {}}, "body.credits.cost"),
        ("keys.verifyKey", {"key": "x", "credits": None}, "body.credits"),
        ("keys.verifyKey", {"key": "x", "tags": ["a"] * 21}, "body.tags"),
        ("keys.verifyKey", {}, "body.key"),
        ("keys.createKey", {"apiId": API_ID, "ownerId": "u"}, "body.ownerId"),
        ("keys.createKey", {"apiId": API_ID, "remaining": 5}, "body.remaining"),
        ("keys.createKey", {"apiId": API_ID, "ratelimits": [{"name": "calls"}]}, "body.ratelimits[0].limit"),
        ("keys.updateCredits", {"keyId": "key_1", "operation": "add", "value": 1}, "body.operation"),
        ("keys.updateCredits", {"keyId": "key_1", "operation": "increment", "value": -1}, "body.value"),
        ("keys.updateCredits", {"keyId": "key_1", "operation": "increment", "value": 1.5}, "body.value"),
        ("keys.updateCredits", {"keyId": "key_1", "operation": "increment", "value": True}, "body.value"),
        ("keys.updateCredits", {"keyId": "key_1", "operation": "increment", "value": 1, "id": "x"}, "body.id"),
        ("apis.listKeys", {"apiId": API_ID, "limit": 101}, "body.limit"),
        ("apis.listKeys", {"apiId": API_ID, "ownerId": "u"}, "body.ownerId"),
        ("keys.getKey", [], "body"),
    ],
)
def test_a_field_that_is_wrong_or_unknown_is_a_bad_request_that_names_it(call, body, location):
    async def story(unkey):
        answer = await unkey.ask(call, body, fits=False)
        assert refusal_of(answer) == INVALID_INPUT
        assert answer.document["error"]["errors"][0]["location"] == location

    tell(story)


@pytest.mark.parametrize(
    "raw_body", [b"", b"{", b'{"key":"\xff"}', b'{"key":"x","credits":{"cost":NaN}}', b"[" * 100_000, b'{"key":"x"}{}']
)
def test_a_body_that_is_no_json_is_a_bad_request(raw_body):
    async def story(unkey):
        answer = await unkey.send("keys.verifyKey", raw_body)
        check_response("keys.verifyKey", answer.status, answer.headers, answer.body)
        assert refusal_of(answer) == INVALID_INPUT

    tell(story)


def test_nothing_but_json_numbers_are_kept_in_meta():
    async def story(unkey):
        answer = await unkey.send("keys.createKey", b'{"apiId":"%b","meta":{"a":NaN}}' % API_ID.encode())
        assert refusal_of(answer) == INVALID_INPUT

    tell(story)


def test_a_body_must_be_declared_as_json():
    async def story(unkey):
        for content_type in (None, "text/plain"):
            answer = await unkey.ask("keys.verifyKey", {"key": "x"}, content_type=content_type)
            assert refusal_of(answer) == INVALID_INPUT
        answer = await unkey.ask("keys.verifyKey", {"key": "x"}, content_type="application/json; charset=utf-8")
        assert answer.status == 200

    tell(story)


def test_too_large_a_body_is_refused():
    async def story(unkey):
        answer = await unkey.send("keys.verifyKey", b" " * (2 << 20))
        check_response("keys.verifyKey", answer.status, answer.headers, answer.body)
        assert refusal_of(answer) == (413, "user/bad_request/request_body_too_large")

    tell(story)


def test_a_key_of_half_characters_is_not_found():
    async def story(unkey):
        answer = await unkey.send("keys.verifyKey", b'{"key":"\\ud800"}')
        assert answer.document["data"]["code"] == "NOT_FOUND"

    tell(story)


# How it is told.


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "application/problem+json"),
        ("application/*", "application/problem+json"),
        ("text/html, application/problem+json;q=0.5", "application/problem+json"),
        ("application/json", "application/json"),
        (None, "application/json"),
    ],
)
def test_an_error_is_told_as_a_problem_only_to_who_accepts_that(accept, content_type):
    async def story(unkey):
        answer = await unkey.ask("keys.getKey", {"keyId": "key_none"}, accept=accept)
        assert (answer.status, answer.headers["content-type"]) == (404, content_type)
        answer = await unkey.ask("keys.getKey", {}, fits=False, accept=accept)
        assert (answer.status, answer.headers["content-type"]) == (400, "application/json")

    tell(story)


def test_every_answer_has_a_request_id_of_its_own():
    async def story(unkey):
        answers = [await unkey.ask("keys.verifyKey", {"key": "x"}), await unkey.ask("keys.getKey", {"keyId": "key_x"})]
        ids = [answer.document["meta"]["requestId"] for answer in answers]
        assert len(set(ids)) == 2
        assert all(request_id.startswith("req_") for request_id in ids)

    tell(story)


def test_liveness_needs_no_root_key():
    async def story(unkey):
        answer = await exchange(unkey.server.port, "GET", "/v2/liveness")
        check_response("liveness", answer.status, answer.headers, answer.body)
        assert answer.document["data"] == {"message": "OK"}

    tell(story)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/keys.verifyKey", 404),
        ("POST", "/v2/keys.unknown", 404),
        ("GET", "/", 404),
        ("GET", "/v2/keys.verifyKey", 405),
        ("HEAD", "/v2/keys.verifyKey", 405),
        ("POST", "/v2/liveness", 405),
    ],
)
def test_what_is_no_call_is_not_there(method, path, status):
    async def story(unkey):
        answer = await exchange(unkey.server.port, method, path)
        assert answer.status == status
        assert bool(answer.body) == (method != "HEAD")

    tell(story)
