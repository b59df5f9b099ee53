"""What the client asks of Unkey, how it takes each answer, and that it asks once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.credits.provider import NO_POLICY, Policy, RateLimit
from gateway.credits.unkey.client import RemoteKey, UnkeyClient, Verdict
from gateway.credits.unkey.errors import NOT_EXECUTED, UnkeyRefused, UnkeyUnavailable
from gateway.credits.unkey.verify_body import NAME_MAX_CHARACTERS, POLICIES_MAX, VerifyBody, limit_name
from gateway.errors import GatewayError, Invalid, InvalidKey
from gateway.wire import Answer, WireError
from tests.credits.unkey.wires import ADMIN_ROOT_KEY, ROOT_KEY, SECRET, ScriptedWire, Unkey, problem, run, said
from tests.sandbox.openapi import fits_request

POLICY = Policy("personas.write AND (eu OR us)", RateLimit(100, 60))
KEY = {
    "keyId": "key_1",
    "start": "gw_abc",
    "enabled": True,
    "createdAt": 1700000000000,
    "name": "Für Ada",
    "expires": 1893456000000,
    "permissions": ["a.b"],
    "credits": {"remaining": 95, "refill": None},
    "identity": {"id": "id_1", "externalId": "u8.YUBi"},
}


def verify(client: UnkeyClient) -> Coroutine[Any, Any, Any]:
    return client.verify(SECRET, 5, POLICY, "/v1/personas", "req_1")


CALLS: dict[str, Callable[[UnkeyClient], Coroutine[Any, Any, Any]]] = {
    "keys.createKey": lambda client: client.create_key("a@b", credits=100, name="Für Ada", expires_at=1893456000000),
    "keys.updateCredits": lambda client: client.update_credits("key_1", "increment", 5),
    "keys.getKey": lambda client: client.get_key("key_1"),
    "apis.listKeys": lambda client: client.list_keys(user_id="a@b", cursor="key_0", limit=50),
    "keys.updateKey": lambda client: client.update_key("key_1", enabled=False),
    "keys.deleteKey": lambda client: client.delete_key("key_1"),
    "keys.rerollKey": lambda client: client.reroll_key("key_1"),
}
EVERY_CALL = {"keys.verifyKey": verify, **CALLS}
FINDERS = ("keys.getKey", "keys.updateKey", "keys.deleteKey", "keys.rerollKey")


@pytest.fixture
def unkey() -> Unkey:
    return Unkey(verify_timeout_seconds=1.5, write_timeout_seconds=7)


def error_of(call: str, unkey: Unkey, outcome: Any) -> GatewayError:
    """What the call raises, which asks once and never more."""
    unkey.says(outcome)
    with pytest.raises(GatewayError) as caught:
        run(EVERY_CALL[call](unkey.client))
    assert len(unkey.verify_wire.sent) + len(unkey.admin_wire.sent) == 1
    return caught.value


# What is asked.


@pytest.mark.parametrize("call", EVERY_CALL)
def test_every_call_is_made_with_its_own_root_key_and_deadline_as_unkey_describes_it(call: str, unkey: Unkey) -> None:
    unkey.says(Answer(500, None, b""))
    with pytest.raises(UnkeyUnavailable):
        run(EVERY_CALL[call](unkey.client))
    is_verify = call == "keys.verifyKey"
    used, unused = unkey.verify_wire, unkey.admin_wire
    if not is_verify:
        used, unused = unused, used
    ((target, headers, body, seconds),) = used.sent
    assert unused.sent == []
    assert target == b"/v2/" + call.encode()
    assert dict(headers)[b"authorization"] == b"Bearer " + (ROOT_KEY if is_verify else ADMIN_ROOT_KEY).encode()
    # With `*/*` or nothing Unkey answers errors in another media type.
    assert dict(headers)[b"accept"] == dict(headers)[b"content-type"] == b"application/json"
    assert seconds == (1.5 if is_verify else 7)
    assert fits_request(call, json.loads(body))


def test_a_verify_takes_the_cost_and_asks_what_the_route_asks(unkey: Unkey) -> None:
    unkey.says({"valid": False, "code": "NOT_FOUND"})
    run(unkey.client.verify(SECRET, 0, NO_POLICY, "/v1/x", "req_1"))
    run(unkey.client.verify(SECRET, 5, Policy("a.b"), "/v1/x", "req_1"))
    run(unkey.client.verify(SECRET, 5, Policy(rate_limit=RateLimit(10, 1)), "/v1/x", "req_1"))
    run(unkey.client.verify(SECRET, 5, POLICY, "/v1/x", "req_1"))
    run(unkey.client.verify(SECRET, 5, Policy(), "/v1/x", "req_1"))
    key = {"key": SECRET.decode()}
    limit = {"name": "gateway:/v1/x", "limit": 10, "duration": 1000, "cost": 1}
    assert unkey.verify_wire.bodies == [
        {**key, "credits": {"cost": 0}},
        {**key, "credits": {"cost": 5}, "permissions": "a.b"},
        {**key, "credits": {"cost": 5}, "ratelimits": [limit]},
        {
            **key,
            "credits": {"cost": 5},
            "permissions": "personas.write AND (eu OR us)",
            "ratelimits": [{**limit, "limit": 100, "duration": 60_000}],
        },
        {**key, "credits": {"cost": 5}},
    ]


def test_each_route_and_policy_is_asked_about_as_itself_however_many_there_are() -> None:
    body = VerifyBody()
    for i in range(3 * POLICIES_MAX):
        # Policies that are gone again must not lend their bodies to those that come after them.
        asked = json.loads(body.write(SECRET, i, Policy(f"p{i}.q", RateLimit(i + 1, 60)), f"/v1/{i % 7}"))
        assert asked["permissions"] == f"p{i}.q"
        assert asked["ratelimits"][0]["limit"] == i + 1
        assert asked["ratelimits"][0]["name"] == f"gateway:/v1/{i % 7}"
        assert asked["credits"] == {"cost": i}
        assert len(body._rests) <= POLICIES_MAX


@pytest.mark.parametrize("route", ["/", "/v1/personas", "", "/" + "a" * 119, "/" + "a" * 120, "/é" * 200, '/"\\'])
def test_a_limit_has_a_name_that_unkey_takes_and_every_route_its_own(route: str) -> None:
    policy = Policy(rate_limit=RateLimit(1, 1))
    asked = json.loads(VerifyBody().write(SECRET, 1, policy, route))
    assert fits_request("keys.verifyKey", asked)
    assert 3 <= len(limit_name(route)) <= NAME_MAX_CHARACTERS
    assert len({limit_name(route), limit_name(route + "x"), limit_name(route + "y")}) == 3
    named = json.loads(VerifyBody().write(SECRET, 1, Policy(rate_limit=RateLimit(1, 1, "POST " + route)), route))
    assert named["ratelimits"][0]["name"] == limit_name("POST " + route)


@given(st.text(min_size=1, max_size=512))
@example('"},"credits":{"cost":0}')
@example("\\")
@example("\x00\x7f\u2028")
@example("\N{GRINNING FACE}" * 512)
def test_a_key_can_not_say_more_than_a_key(key: str) -> None:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return
    asked = json.loads(VerifyBody().write(encoded, 5, NO_POLICY, "/v1/x"))
    assert asked == {"key": key, "credits": {"cost": 5}}


@pytest.mark.parametrize("key", [b"", b"a" * 513, "é".encode() * 513, b"\xff", b"gw_\xc3"])
def test_what_can_not_be_a_key_is_refused_unasked(key: bytes, unkey: Unkey) -> None:
    with pytest.raises(InvalidKey):
        run(unkey.client.verify(key, 5, POLICY, "/v1/x", "req_1"))
    assert unkey.verify_wire.sent == []


def test_a_key_is_made_with_what_is_given_and_nothing_else(unkey: Unkey) -> None:
    unkey.says({"keyId": "key_1", "key": SECRET.decode()})
    made = run(
        unkey.client.create_key("a@b", credits=0, name="Für Ada", expires_at=1893456000000, permissions=("a.b",))
    )
    assert made == ("key_1", SECRET.decode())
    run(unkey.client.create_key("user_1", credits=None, name=None, expires_at=None))
    always = {"apiId": "api_1", "prefix": "gw", "byteLength": 32}
    assert unkey.admin_wire.bodies == [
        {
            **always,
            "externalId": "u8.YUBi",
            "credits": {"remaining": 0},
            "name": "Für Ada",
            "expires": 1893456000000,
            "permissions": ["a.b"],
        },
        {**always, "externalId": "user_1"},
    ]
    assert all(fits_request("keys.createKey", body) for body in unkey.admin_wire.bodies)
    with pytest.raises(Invalid):
        run(unkey.client.create_key("", credits=None, name=None, expires_at=None))


def test_only_what_is_named_changes(unkey: Unkey) -> None:
    unkey.says({})
    changes: list[dict[str, Any]] = [
        {"enabled": False},
        {"name": "Ada", "expires_at": 1893456000000},
        {"permissions": ()},
    ]
    for change in changes:
        assert run(unkey.client.update_key("key_1", **change)) is True
    assert unkey.admin_wire.bodies == [
        {"keyId": "key_1", "enabled": False},
        {"keyId": "key_1", "name": "Ada", "expires": 1893456000000},
        {"keyId": "key_1", "permissions": []},
    ]


def test_credits_are_moved_and_never_set(unkey: Unkey) -> None:
    unkey.says({"remaining": 7})
    assert run(unkey.client.update_credits("key_1", "decrement", 3)) == (7, "req_1")
    assert unkey.admin_wire.bodies == [{"keyId": "key_1", "operation": "decrement", "value": 3}]
    unkey.says({"remaining": None})
    assert run(unkey.client.update_credits("key_1", "increment", 3)) == (None, "req_1")
    assert not hasattr(unkey.client, "set_credits")


def test_a_rerolled_key_expires_at_once_and_a_deleted_one_is_kept_for_its_history(unkey: Unkey) -> None:
    unkey.says({"keyId": "key_2", "key": SECRET.decode()})
    assert run(unkey.client.reroll_key("key_1")) == ("key_2", SECRET.decode())
    assert run(unkey.client.delete_key("key_1")) is True
    assert unkey.admin_wire.bodies == [{"keyId": "key_1", "expiration": 0}, {"keyId": "key_1"}]


# How answers are read.


def test_a_key_is_read(unkey: Unkey) -> None:
    unkey.says(KEY)
    key = run(unkey.client.get_key("key_1"))
    assert key == RemoteKey(
        key_id="key_1",
        start="gw_abc",
        enabled=True,
        created_at=1700000000000,
        name="Für Ada",
        expires_at=1893456000000,
        user_id="a@b",
        credits=95,
        permissions=("a.b",),
    )
    unkey.says({"keyId": "key_1", "start": "gw_abc", "enabled": False, "createdAt": 1})
    key = run(unkey.client.get_key("key_1"))
    assert (key.credits, key.user_id, key.name, key.expires_at, key.permissions) == (None, "", None, None, ())


def test_pages_go_on_until_there_is_no_more(unkey: Unkey) -> None:
    unkey.says(said([KEY], pagination={"cursor": "key_2", "hasMore": True}))
    keys, cursor = run(unkey.client.list_keys(user_id="a@b", cursor="key_1", limit=1))
    assert ([key.key_id for key in keys], cursor) == (["key_1"], "key_2")
    unkey.says(said([], pagination={"cursor": "key_2", "hasMore": False}))
    assert run(unkey.client.list_keys(user_id=None, cursor=None, limit=100)) == ([], None)
    assert unkey.admin_wire.bodies == [
        {"apiId": "api_1", "limit": 1, "externalId": "u8.YUBi", "cursor": "key_1"},
        {"apiId": "api_1", "limit": 100},
    ]


WRONG: dict[str, list[Any]] = {
    "keys.createKey": [{}, {"keyId": "key_1"}, {"key": "gw_1", "keyId": None}, {"key": 1, "keyId": "key_1"}],
    "keys.updateCredits": [{}, {"remaining": -1}, {"remaining": "5"}, {"remaining": 1.0}],
    "keys.getKey": [
        {},
        *[{**KEY, "keyId": value} for value in ("", "a\r\nb", "a b", 1)],
        {**KEY, "enabled": 1},
        *[{**KEY, "createdAt": value} for value in (None, -1, "1")],
        *[{**KEY, "credits": value} for value in (5, {"remaining": -5}, [])],
        *[{**KEY, "permissions": value} for value in ("a.b", [1])],
        {**KEY, "name": 1},
        {**KEY, "identity": "user_1"},
    ],
    "apis.listKeys": [{}, [{}], [KEY, 1]],
    "keys.updateKey": [None, [], "ok"],
    "keys.deleteKey": [None, [], "ok"],
    "keys.rerollKey": [{}, {"keyId": "key_1"}],
}


@pytest.mark.parametrize(("call", "data"), [(call, data) for call, many in WRONG.items() for data in many])
def test_an_answer_that_means_nothing_leaves_it_open_what_was_done(call: str, data: Any, unkey: Unkey) -> None:
    error = error_of(call, unkey, said(data, pagination={"hasMore": False}))
    assert isinstance(error, UnkeyUnavailable)
    assert error.possibly_executed
    assert call in error.cause


@pytest.mark.parametrize("pagination", [None, {}, {"hasMore": True}, {"hasMore": True, "cursor": ""}, []])
def test_a_page_must_say_whether_there_are_more(pagination: Any, unkey: Unkey) -> None:
    unkey.says(said([], pagination=pagination))
    with pytest.raises(UnkeyUnavailable):
        run(unkey.client.list_keys(user_id=None, cursor=None, limit=1))


# When there is no answer to rely on.


@pytest.mark.parametrize("call", EVERY_CALL)
@pytest.mark.parametrize("possibly_executed", [True, False])
def test_no_answer_is_told_as_what_it_leaves_open(call: str, possibly_executed: bool, unkey: Unkey) -> None:
    error = error_of(call, unkey, WireError("It did not come", possibly_executed=possibly_executed))
    assert isinstance(error, UnkeyUnavailable)
    assert error.possibly_executed == possibly_executed
    assert error.cause == "Unkey: It did not come"
    assert (error.status, error.slug) == (503, "credits-unavailable")
    # What may have been taken must not be called free.
    assert ("Nothing was charged" in error.detail) != possibly_executed


@pytest.mark.parametrize(
    "status", [201, 204, 301, 302, 400, 401, 402, 403, 404, 405, 408, 409, 412, 413, 422, 429, 499, 500, 502, 503, 504]
)
@pytest.mark.parametrize("with_document", [True, False])
def test_no_status_but_200_says_anything_of_a_key(status: int, with_document: bool, unkey: Unkey) -> None:
    answer = problem(status, "unkey/application/x") if with_document else Answer(status, None, b"<html>")
    error = error_of("keys.verifyKey", unkey, answer)
    assert isinstance(error, UnkeyUnavailable)
    assert error.possibly_executed == (status not in {400, 401, 403, 404, 412, 413, 429})
    assert str(status) in error.cause or status in (401, 403, 429)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "unkey/application/invalid_input"),
        (404, "unkey/data/role_not_found"),
        (409, "unkey/data/identity_already_exists"),
        (412, "unkey/application/precondition_failed"),
        (422, "unkey/application/x"),
    ],
)
def test_what_unkey_refuses_to_write_is_told_with_its_reason(call: str, status: int, kind: str, unkey: Unkey) -> None:
    error = error_of(call, unkey, problem(status, kind))
    assert isinstance(error, UnkeyRefused)
    assert (error.unkey_status, error.is_not_found) == (status, False)
    assert error.unkey_type.endswith(kind)
    assert kind in error.cause
    assert "Some Title" in error.cause
    assert "Some Title" not in error.detail


@pytest.mark.parametrize("call", FINDERS)
def test_a_key_that_is_not_there_is_no_error(call: str, unkey: Unkey) -> None:
    unkey.says(problem(404, "unkey/data/key_not_found"))
    assert not run(CALLS[call](unkey.client))
    assert len(unkey.admin_wire.sent) == 1


@pytest.mark.parametrize("call", ["keys.createKey", "keys.updateCredits", "apis.listKeys"])
def test_a_key_that_must_be_there_is_missed(call: str, unkey: Unkey) -> None:
    error = error_of(call, unkey, problem(404, "unkey/data/key_not_found"))
    assert isinstance(error, UnkeyRefused)
    assert error.is_not_found


@pytest.mark.parametrize("call", FINDERS)
@pytest.mark.parametrize("body", [b"", b"<html>404</html>", b"[]", b'{"error":"not found"}'])
def test_a_404_of_somebody_else_is_no_missing_key(call: str, body: bytes, unkey: Unkey) -> None:
    error = error_of(call, unkey, Answer(404, None, body))
    assert isinstance(error, UnkeyUnavailable)
    assert not error.possibly_executed
    assert "base_url" in error.cause


@pytest.mark.parametrize("key_id", ["", "k", "../key_1", "key 1", "key_1\n", "é" * 5, "k" * 256])
def test_what_can_not_be_an_id_of_unkeys_is_not_there(key_id: str, unkey: Unkey) -> None:
    assert run(unkey.client.get_key(key_id)) is None
    assert run(unkey.client.update_key(key_id, enabled=True)) is False
    assert run(unkey.client.delete_key(key_id)) is False
    assert run(unkey.client.reroll_key(key_id)) is None
    assert unkey.admin_wire.sent == []


@pytest.mark.parametrize("call", EVERY_CALL)
@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (400, "unkey/authentication/missing", "root_key"),
        (400, "unkey/authentication/malformed", "root_key"),
        (401, "unkey/authentication/key_not_found", "root_key"),
        (403, "unkey/authorization/insufficient_permissions", "permissions"),
        (403, "unkey/authorization/workspace_disabled", "disabled"),
        (404, "unkey/data/api_not_found", "api_id"),
        (429, "user/too_many_requests/workspace_rate_limited", "limit"),
    ],
)
def test_what_is_wrong_with_our_account_is_no_fault_of_a_caller_and_says_what_to_do(
    call: str, status: int, kind: str, hint: str, unkey: Unkey
) -> None:
    error = error_of(call, unkey, problem(status, kind))
    assert isinstance(error, UnkeyUnavailable)
    assert not error.possibly_executed
    assert hint in error.cause


@pytest.mark.parametrize(("told", "passed_on"), [(None, 1), (0, 1), (7, 7), (60, 60), (3600, 60), (10**8, 60)])
def test_retry_after_is_passed_on_within_bounds(told: int | None, passed_on: int, unkey: Unkey) -> None:
    error = error_of("keys.verifyKey", unkey, problem(429, "user/too_many_requests/workspace_rate_limited", told))
    assert (b"retry-after", b"%d" % passed_on) in error.headers


LEAKY = [
    *[problem(status, "unkey/application/x") for status in (*sorted(NOT_EXECUTED), 409, 500)],
    *[Answer(status, None, SECRET) for status in (200, 400, 500)],
    said([{"key": SECRET.decode()}]),
    Answer(200, None, b'{"data":"' + SECRET + b"\n"),
    Answer(400, None, b'{"error":{"type":"x\\r\\nforged","title":"y\\nforged \\u2028 line","status":400}}'),
]


@pytest.mark.parametrize("call", EVERY_CALL)
@pytest.mark.parametrize("outcome", LEAKY)
def test_no_error_repeats_a_secret_or_breaks_a_line_of_the_log(call: str, outcome: Answer, unkey: Unkey) -> None:
    error = error_of(call, unkey, outcome)
    shown = f"{error.cause} {error.detail} {error!r} {error} {error.problem('req_1')}"
    assert SECRET.decode() not in shown
    assert ROOT_KEY not in shown
    assert not set(shown) & set("\r\n\u2028")


def test_a_client_shows_no_root_key(unkey: Unkey) -> None:
    assert ROOT_KEY not in repr(unkey.client)
    assert ADMIN_ROOT_KEY not in repr(unkey.client)


# Callers who leave, and the end.


def test_a_verify_whose_caller_leaves_is_handed_on_as_a_verdict(unkey: Unkey) -> None:
    handed: list[Coroutine[Any, Any, Verdict]] = []
    unkey.verify_wire.hands_over = True
    unkey.says({"valid": False, "code": "EXPIRED"})
    for _ in range(3):
        run(unkey.client.verify(SECRET, 5, NO_POLICY, "/v1/x", "req_1", handed.append))
    assert run(handed[0]).code == "EXPIRED"
    for rest, outcome in zip(handed[1:], (WireError("late", possibly_executed=True), said({})), strict=True):
        unkey.says(outcome)
        with pytest.raises(UnkeyUnavailable) as caught:
            run(rest)
        assert caught.value.possibly_executed


def test_closing_closes_both_wires(unkey: Unkey) -> None:
    run(unkey.client.aclose())
    assert unkey.verify_wire.is_closed
    assert unkey.admin_wire.is_closed
    assert unkey.client.count_connections() == (3, 2, 1)


@pytest.mark.parametrize("root_key", ["", "a b", "a\r\nX: y", "ü", "a\0"])
def test_a_root_key_that_no_header_can_carry_is_refused_without_being_shown(root_key: str) -> None:
    with pytest.raises(ValueError, match="admin_root_key") as caught:
        UnkeyClient(ScriptedWire(), ScriptedWire(), api_id="api_1", root_key="x", admin_root_key=root_key)
    assert not root_key or root_key not in str(caught.value)


def test_a_cancelled_verify_stays_cancelled() -> None:
    class HangingWire(ScriptedWire):
        async def post(self, *_: Any, **__: Any) -> Answer:
            await asyncio.Event().wait()
            raise AssertionError

    async def main() -> None:
        client = UnkeyClient(HangingWire(), HangingWire(), api_id="api_1", root_key="x", admin_root_key="y")
        call = asyncio.create_task(verify(client))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())
