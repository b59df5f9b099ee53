"""API keys over HTTP: whose they are, who may do what with them, and which values are none."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.api.harness import CONFIG, SIGNUP_CREDITS, gather

ODD_USER_IDS = {
    "NUL": "a\0b",
    "a megabyte": "a" * 1_048_576,
    "homoglyphs": "аlice",  # Cyrillic а
    "full-width": "ａlice",
    "space": "a b",
    "line break": "a\n",
    "empty": "",
    "half a surrogate pair": "\ud800",
    "129 characters": "a" * 129,
}


def test_a_key_is_made_with_everything_a_caller_needs(with_any_api):
    async def test(api):
        answer = await api.call("POST /api-keys", {"user_id": "alice", "name": "mine", "credits": 7}, admin=True)
        assert answer.status == 201
        assert answer.json.keys() == {"api_key", "key_id", "user_id", "credits"}
        assert (answer.json["user_id"], answer.json["credits"]) == ("alice", 7)
        balance = await api.call("GET /credits", key=answer.json["api_key"])
        assert balance.json == {
            "key_id": answer.json["key_id"],
            "user_id": "alice",
            "available": 7,
            "held": 0,
            "unlimited": False,
            "spend_caps": {"day": None, "month": None},
        }

    with_any_api(test)


def test_a_secret_is_in_the_answer_that_makes_it_and_in_no_other(with_any_api):
    async def test(api):
        made = await api.new_key()
        key_id, secret = made["key_id"], made["api_key"]
        for what in ("GET /api-keys", f"GET /credits?key_id={key_id}", f"GET /credits/transactions?key_id={key_id}"):
            answer = await api.call(what, admin=True)
            assert answer.status == 200
            assert secret[8:].encode() not in answer.body

    with_any_api(test)


def test_rotating_gives_a_new_secret_to_the_same_key_and_balance(with_any_api):
    async def test(api):
        made = await api.new_key(credits=9)
        answer = await api.call(f"POST /api-keys/{made['key_id']}/rotate", user="alice")
        assert answer.status == 200
        assert (answer.json["key_id"], answer.json["user_id"], answer.json["credits"]) == (made["key_id"], "alice", 9)
        assert (await api.call("GET /credits", key=made["api_key"])).status == 401
        assert (await api.call("GET /credits", key=answer.json["api_key"])).json["available"] == 9

    with_any_api(test)


def test_a_revoked_key_stops_and_revoking_again_changes_nothing(with_any_api):
    async def test(api):
        made = await api.new_key()
        for _ in range(2):
            answer = await api.call(f"DELETE /api-keys/{made['key_id']}", user="alice")
            assert (answer.status, answer.body) == (204, b"")
        assert (await api.call("GET /credits", key=made["api_key"])).slug == "invalid-key"
        assert (await api.call(f"POST /api-keys/{made['key_id']}/rotate", user="alice")).slug == "conflict"

    with_any_api(test)


def test_another_users_key_is_not_there(with_any_api):
    async def test(api):
        made, other = await api.new_key("alice"), await api.new_key("bob")
        key_id = made["key_id"]
        for call in (
            f"DELETE /api-keys/{key_id}",
            f"POST /api-keys/{key_id}/rotate",
            f"GET /credits?key_id={key_id}",
            f"GET /credits/transactions?key_id={key_id}",
        ):
            theirs = await api.call(call, user="bob")
            nobodys = await api.call(call.replace(key_id, "key_00000000000000000000"), user="bob")
            assert (theirs.status, theirs.slug) == (404, "not-found"), call
            shown = {"instance"}
            assert {k: v for k, v in theirs.json.items() if k not in shown} == {
                k: v for k, v in nobodys.json.items() if k not in shown
            }
        for call in (f"GET /credits?key_id={key_id}", f"GET /credits/transactions?key_id={key_id}"):
            assert (await api.call(call, key=other["api_key"])).slug == "not-found"
        assert (await api.call("GET /credits", key=made["api_key"])).status == 200
        assert [key["user_id"] for key in (await api.call("GET /api-keys", user="bob")).json["api_keys"]] == ["bob"]

    with_any_api(test)


def test_an_api_key_sees_itself_and_may_not_make_end_or_replace_keys(with_api):
    async def test(api):
        made, _ = await api.new_key("alice"), await api.new_key("alice")
        key_id, secret = made["key_id"], made["api_key"]
        listed = await api.call("GET /api-keys", key=secret)
        assert [key["key_id"] for key in listed.json["api_keys"]] == [key_id]
        calls = [
            ("POST /api-keys", {}),
            (f"DELETE /api-keys/{key_id}", None),
            (f"POST /api-keys/{key_id}/rotate", None),
        ]
        for call, body in calls:
            assert (await api.call(call, body, key=secret)).slug == "forbidden"
        assert (await api.call("GET /credits", key=secret)).status == 200

    with_api(test)


def test_only_the_admin_chooses_credits_and_users(with_api):
    async def test(api):
        for body in ({"credits": 5}, {"credits": 0}, {"user_id": "bob"}):
            assert (await api.call("POST /api-keys", body, user="alice")).slug == "forbidden"
        assert (await api.call("GET /api-keys?user_id=bob", user="alice")).slug == "forbidden"
        assert (await api.call("POST /api-keys", {}, admin=True)).errors == {"user_id": "is needed"}
        assert (await api.call("POST /api-keys", {"user_id": "alice"}, user="alice")).status == 201

    with_api(test)


@pytest.mark.parametrize("user_id", ODD_USER_IDS.values(), ids=ODD_USER_IDS)
def test_what_is_no_user_id_is_refused_by_name(with_api, user_id):
    async def test(api):
        answer = await api.call("POST /api-keys", {"user_id": user_id}, admin=True)
        assert list(answer.errors) == ["user_id"]
        assert len(answer.body) < 1_000
        assert (await api.call("GET /api-keys", admin=True)).json["api_keys"] == []

    with_api(test)


@pytest.mark.parametrize("field", ["credits", "expires_at"])
@pytest.mark.parametrize("value", [-1, 2**63, -(2**63) - 1, 10**400, 1.5, 1e2, "10", True, None, [], {}], ids=repr)
def test_what_is_no_amount_or_time_is_refused_by_name(with_api, field, value):
    async def test(api):
        answer = await api.call("POST /api-keys", {"user_id": "alice", field: value}, admin=True)
        assert list(answer.errors) == [field]
        assert (await api.call("GET /api-keys", admin=True)).json["api_keys"] == []

    with_api(test)


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\x85", "a" * 101, 5, None], ids=repr)
def test_what_is_no_name_is_refused(with_api, name):
    async def test(api):
        assert list((await api.call("POST /api-keys", {"name": name}, user="alice")).errors) == ["name"]

    with_api(test)


def test_a_key_expires_in_the_future_only_and_then_is_told_as_expired(with_api):
    async def test(api):
        now = time.time_ns() // 1_000_000
        assert list((await api.call("POST /api-keys", {"expires_at": now - 1}, user="alice")).errors) == ["expires_at"]
        made = await api.call("POST /api-keys", {"expires_at": now + 1_000}, user="alice")
        secret = made.json["api_key"]
        while (answer := await api.call("GET /credits", key=secret)).status == 200:
            await asyncio.sleep(0.02)
        assert answer.slug == "key-expired"
        assert time.time_ns() // 1_000_000 >= now + 1_000
        assert made.json["credits"] == SIGNUP_CREDITS

    with_api(test)


def test_a_disabled_key_is_told_as_disabled(with_any_api):
    async def test(api):
        made = await api.new_key()
        await api.provider.enable(made["key_id"], False)
        assert (await api.call("GET /credits", key=made["api_key"])).slug == "key-disabled"

    with_any_api(test)


def test_fields_that_do_not_exist_are_named(with_api):
    async def test(api):
        answer = await api.call("POST /api-keys", {"user_id": "a", "credit": 5, "admin": True}, admin=True)
        assert answer.errors.keys() == {"credit", "admin"}
        answer = await api.call("GET /api-keys?limit=5&offset=3", admin=True)
        assert answer.errors.keys() == {"offset"}

    with_api(test)


def test_a_user_has_no_more_keys_than_the_config_allows_however_many_are_asked_for_at_once(with_any_api):
    async def test(api):
        answers = await gather(
            12, lambda n: api.call("POST /api-keys", {}, user="alice", once=f"k{n}" if n % 2 else None)
        )
        made = [answer.json for answer in answers if answer.status == 201]
        assert {answer.status for answer in answers} <= {201, 409}
        assert len(made) <= 3
        while (answer := await api.call("POST /api-keys", {}, user="alice")).status == 201:
            made.append(answer.json)
        assert len(made) == 3
        assert (answer.status, answer.slug) == (409, "conflict")
        assert "3 API keys" in answer.json["detail"]
        assert await usable(api) == {key["key_id"] for key in made}
        assert (await api.call("POST /api-keys", {"user_id": "alice"}, admin=True)).slug == "conflict"
        assert (await api.call("POST /api-keys", {}, user="bob")).status == 201
        await api.call(f"DELETE /api-keys/{made[0]['key_id']}", user="alice")
        assert (await api.call("POST /api-keys", {}, user="alice")).status == 201

    with_any_api(test, config={"identity": {**CONFIG["identity"], "keys_per_user_max": 3}})


async def usable(api) -> set[str]:
    listed = (await api.call("GET /api-keys?limit=100", user="alice")).json["api_keys"]
    return {key["key_id"] for key in listed if key["revoked_at"] is None}
