"""Idempotency-Key: done once, answered alike, and never to be read from the database."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
import uvloop

from gateway.api import records
from gateway.credits.ledger import now_ms
from gateway.errors import CreditsUnavailable
from gateway.sealing import derive
from tests.api.harness import SIGNUP_CREDITS, gather, open_api


async def keys_of(api, user="alice"):
    return (await api.call("GET /api-keys?limit=100", user=user)).json["api_keys"]


def test_the_same_request_is_done_once_and_answered_alike(with_any_api):
    async def test(api):
        first = await api.call("POST /api-keys", {"name": "a"}, user="alice", once="one")
        for _ in range(3):
            again = await api.call("POST /api-keys", {"name": "a"}, user="alice", once="one")
            assert (again.status, again.body) == (first.status, first.body)
            assert again.headers["idempotency-replayed"] == "true"
        assert "idempotency-replayed" not in first.headers
        assert len(await keys_of(api)) == 1
        assert (await api.call("GET /credits", key=first.json["api_key"])).json["available"] == SIGNUP_CREDITS

    with_any_api(test)


def test_a_crowd_with_one_key_gets_one_answer_or_is_told_to_wait(with_any_api):
    async def test(api):
        answers = await gather(20, lambda _: api.call("POST /api-keys", {}, user="alice", once="one"))
        assert {answer.status for answer in answers} <= {201, 409}
        assert len({answer.body for answer in answers if answer.status == 201}) == 1
        for answer in answers:
            if answer.status == 409:
                assert (answer.slug, answer.headers["retry-after"]) == ("conflict", "1")
        assert len(await keys_of(api)) == 1

    with_any_api(test)


def test_how_a_body_is_spelled_says_nothing(with_api):
    async def test(api):
        head = {"content-type": "application/json"}
        one = await api.call(
            "POST /api-keys", user="alice", once="k", headers=head, content=b'{"name":"a","user_id":"alice"}'
        )
        two = await api.call(
            "POST /api-keys", user="alice", once="k", headers=head, content=b'{ "user_id": "alice", "name": "\\u0061" }'
        )
        assert (one.status, one.body) == (two.status, two.body) == (201, one.body)

    with_api(test)


def test_another_request_under_the_same_key_is_refused(with_api):
    async def test(api):
        made = (await api.call("POST /api-keys", {"name": "a"}, user="alice", once="one")).json
        for what, body in (
            ("POST /api-keys", {"name": "b"}),
            ("POST /api-keys", {}),
            (f"POST /api-keys/{made['key_id']}/rotate", None),
            ("POST /checkout", {"pack": "s"}),
        ):
            answer = await api.call(what, body, user="alice", once="one")
            assert list(answer.errors) == ["Idempotency-Key"], what
        assert len(await keys_of(api)) == 1

    with_api(test)


def test_each_caller_has_keys_of_their_own(with_api):
    async def test(api):
        users = [(await api.call("POST /api-keys", {}, user=user, once="one")).json for user in ("alice", "bob")]
        admins = await api.call("POST /api-keys", {"user_id": "alice"}, admin=True, once="one")
        assert admins.status == 201
        assert len({made["api_key"] for made in users} | {admins.json["api_key"]}) == 3

    with_api(test)


def test_a_refusal_is_repeated_too_but_not_one_that_may_pass(with_api):
    async def test(api):
        body = {"key_id": "key_unknown", "amount": 1, "kind": "promo", "reason": "r", "reference": "x"}
        first = await api.call("POST /credits/adjustments", body, admin=True, once="one")
        again = await api.call("POST /credits/adjustments", body, admin=True, once="one")
        assert first.errors.keys() == {"key_id"}
        assert (again.status, again.body) == (first.status, first.body)
        create, api.provider.create = api.provider.create, _unavailable
        assert (await api.call("POST /api-keys", {}, user="alice", once="two")).status == 503
        api.provider.create = create
        assert (await api.call("POST /api-keys", {}, user="alice", once="two")).status == 201

    with_api(test)


async def _unavailable(*_arguments, **_more):
    raise CreditsUnavailable(cause="a test")


@pytest.mark.parametrize("step", ["create", "note", "grant", "finish"])
def test_a_try_that_breaks_off_at_any_step_is_taken_up_and_makes_one_funded_key(any_ledger, step):
    async def main():
        async with open_api(any_ledger) as api:
            restore = _break(api, step)
            assert (await api.call("POST /api-keys", {}, user="alice", once="one")).status == 503
            restore()
            answer = await api.call("POST /api-keys", {}, user="alice", once="one")
            assert (answer.status, answer.json["credits"]) == (201, SIGNUP_CREDITS)
            assert (await api.call("GET /credits", key=answer.json["api_key"])).json["available"] == SIGNUP_CREDITS
            # What was made before it was noted is empty, and nobody has its secret.
            spare = [key for key in await keys_of(api) if key["key_id"] != answer.json["key_id"]]
            assert [key["available"] for key in spare] == ([0] if step == "note" else [])

    uvloop.run(main())
    any_ledger.audit()


def _break(api, step):
    monkey = pytest.MonkeyPatch()

    def fail(*_arguments):
        raise CreditsUnavailable(cause="a test")

    if step == "create":
        monkey.setattr(api.provider, "create", _unavailable)
    elif step == "grant":
        monkey.setattr(api.provider, "grant", _unavailable)
    else:
        monkey.setattr(records, {"note": "note_key", "finish": "finish"}[step], fail)
    return monkey.undo


@pytest.mark.parametrize("amount", [0, 7])
def test_credits_that_the_admin_gives_are_given_once_over_several_tries(any_ledger, amount):
    async def main():
        async with open_api(any_ledger) as api:
            restore = _break(api, "finish")
            body = {"user_id": "alice", "credits": amount}
            assert (await api.call("POST /api-keys", body, admin=True, once="one")).status == 503
            restore()
            assert (await api.call("POST /api-keys", body, admin=True, once="one")).json["credits"] == amount
            assert sum(key["available"] for key in await keys_of(api)) == amount

    uvloop.run(main())
    any_ledger.audit()


def test_who_was_taken_for_dead_leaves_no_key_behind(ledger):
    async def main():
        async with open_api(ledger) as one, open_api(ledger) as two:
            create, reached, go = one.provider.create, asyncio.Event(), asyncio.Event()

            async def slow(*arguments, **more):
                reached.set()
                await go.wait()
                return await create(*arguments, **more)

            one.provider.create = slow
            sleeper = asyncio.create_task(one.call("POST /api-keys", {}, user="alice", once="one"))
            await reached.wait()
            _expire_leases(ledger)
            answer = await two.call("POST /api-keys", {}, user="alice", once="one")
            assert (answer.status, answer.json["credits"]) == (201, SIGNUP_CREDITS)
            go.set()
            assert (await sleeper).status == 409
            in_use = [key for key in await keys_of(two) if key["revoked_at"] is None]
            assert [key["key_id"] for key in in_use] == [answer.json["key_id"]]
            assert (await one.call("POST /api-keys", {}, user="alice", once="one")).body == answer.body

    uvloop.run(main())
    ledger.audit()


def _expire_leases(ledger):
    connection = sqlite3.connect(ledger.path, isolation_level=None, timeout=5)
    connection.execute("UPDATE requests SET owned_until = 1")
    connection.close()


def test_who_works_for_long_says_so_and_is_not_taken_for_dead(ledger):
    async def main():
        async with open_api(ledger, lease_seconds=0.4) as one, open_api(ledger, lease_seconds=0.4) as two:
            create = one.provider.create

            async def slow(*arguments, **more):
                await asyncio.sleep(1.2)
                return await create(*arguments, **more)

            one.provider.create = slow
            worker = asyncio.create_task(one.call("POST /api-keys", {}, user="alice", once="one"))
            await asyncio.sleep(0.9)
            assert (await two.call("POST /api-keys", {}, user="alice", once="one")).status == 409
            assert (await worker).status == 201
            assert len(await keys_of(two)) == 1

    uvloop.run(main())


def test_a_key_made_once_is_not_in_the_database_to_be_read(with_api, ledger):
    async def test(api):
        answer = await api.call("POST /api-keys", {}, user="alice", once="a-key-that-nobody-stores")
        secret = answer.json["api_key"]
        for path in ledger.path.parent.iterdir():
            content = path.read_bytes()
            assert secret.encode() not in content
            assert secret[10:].encode() not in content
            assert b"a-key-that-nobody-stores" not in content

    with_api(test)


def test_a_stored_answer_opens_with_its_own_key_alone():
    seal = derive("user:alice", b"one")
    sealed = seal.close(b"answer", b"201")
    assert seal.open(sealed, b"201") == b"answer"
    assert derive("user:alice", b"one").open(sealed, b"201") == b"answer"
    for other, context in (
        (derive("user:bob", b"one"), b"201"),
        (derive("user:alice", b"two"), b"201"),
        (seal, b"200"),
    ):
        assert other.open(sealed, context) is None
    assert seal.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), b"201") is None
    assert seal.open(b"", b"201") is None
    assert seal.close(b"answer", b"201") != sealed
    assert seal.key.hex() not in repr(seal)
    assert repr(seal.key) not in repr(seal)


def test_answers_are_forgotten_after_a_day_and_not_before(with_api, ledger):
    async def test(api):
        first = await api.call("POST /api-keys", {}, user="alice", once="one")
        _age(ledger, records.KEEP_MS - 60_000)
        assert (await api.call("POST /api-keys", {}, user="alice", once="one")).body == first.body
        _age(ledger, records.KEEP_MS + 1)
        again = await api.call("POST /api-keys", {}, user="alice", once="one")
        assert again.status == 201
        assert again.json["key_id"] != first.json["key_id"]
        assert ledger.count("requests") == 1

    with_api(test)


def _age(ledger, age_ms):
    connection = sqlite3.connect(ledger.path, isolation_level=None, timeout=5)
    connection.execute("UPDATE requests SET created_at = ?", (now_ms() - age_ms,))
    connection.close()


def test_one_callers_requests_have_a_bound(with_api, ledger, monkeypatch):
    monkeypatch.setattr(records, "IDENTITY_ROWS_MAX", 5)
    monkeypatch.setattr(records, "PURGE_ROWS", 2)

    async def test(api):
        bobs = await api.call("POST /api-keys", {}, user="bob", once="bob")
        for number in range(12):
            await api.call("POST /checkout", {"pack": "none"}, user="bob" if number < 0 else "alice", once=f"k{number}")
        assert ledger.count("requests") <= 6
        assert (await api.call("POST /api-keys", {}, user="bob", once="bob")).body == bobs.body

    with_api(test)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä", "\t"])
def test_what_is_no_idempotency_key_is_refused_by_name(with_api, key):
    async def test(api):
        headers = [("idempotency-key", key.encode())]
        answer = await api.call("POST /api-keys", {}, user="alice", headers=headers)
        assert list(answer.errors) == ["Idempotency-Key"]
        assert await keys_of(api) == []

    with_api(test)


def test_two_idempotency_keys_are_refused(with_api):
    async def test(api):
        headers = [("idempotency-key", "a"), ("idempotency-key", "b")]
        assert (await api.call("POST /api-keys", {}, user="alice", headers=headers)).slug == "bad-request"

    with_api(test)


def test_a_rotation_with_a_key_happens_once(with_any_api):
    async def test(api):
        made = await api.new_key("alice")
        call = f"POST /api-keys/{made['key_id']}/rotate"
        first = await api.call(call, user="alice", once="r")
        again = await api.call(call, user="alice", once="r")
        assert first.status == 200
        assert again.body == first.body
        assert (await api.call("GET /credits", key=first.json["api_key"])).status == 200

    with_any_api(test)
