"""Free credits: once per user, whatever is retried, raced, rotated or recreated."""

from __future__ import annotations

import asyncio

import uvloop

from gateway.errors import CreditsUnavailable
from tests.api.harness import SIGNUP_CREDITS, gather, open_api


def test_a_users_first_key_gets_them_and_no_other_does(with_any_api):
    async def test(api):
        first = await api.call("POST /api-keys", {}, user="alice")
        second = await api.call("POST /api-keys", {}, user="alice")
        assert (first.json["credits"], second.json["credits"]) == (SIGNUP_CREDITS, 0)
        other = await api.call("POST /api-keys", {}, user="bob")
        assert other.json["credits"] == SIGNUP_CREDITS
        history = await api.call("GET /credits/transactions", key=first.json["api_key"])
        (entry,) = history.json["transactions"]
        assert (entry["kind"], entry["amount"], entry["reference"]) == ("signup", SIGNUP_CREDITS, "signup:alice")

    with_any_api(test)


def test_ending_and_rotating_keys_brings_no_more(with_any_api):
    async def test(api):
        made = (await api.call("POST /api-keys", {}, user="alice")).json
        rotated = (await api.call(f"POST /api-keys/{made['key_id']}/rotate", user="alice")).json
        assert rotated["credits"] == SIGNUP_CREDITS
        await api.call(f"DELETE /api-keys/{made['key_id']}", user="alice")
        assert (await api.call("POST /api-keys", {}, user="alice")).json["credits"] == 0

    with_any_api(test)


def test_a_race_over_two_replicas_grants_them_once(ledger):
    async def main():
        async with open_api(ledger) as one, open_api(ledger) as two:
            answers = await asyncio.gather(
                gather(20, lambda _: one.call("POST /api-keys", {}, user="alice")),
                gather(20, lambda _: two.call("POST /api-keys", {}, user="alice")),
            )
            amounts = [answer.json["credits"] for replica in answers for answer in replica]
            assert sorted(amounts) == [0] * 39 + [SIGNUP_CREDITS]
            keys = (await one.call("GET /api-keys?limit=100", user="alice")).json["api_keys"]
            assert sum(key["available"] for key in keys) == SIGNUP_CREDITS

    uvloop.run(main())
    ledger.audit()


def test_what_a_crash_between_key_and_grant_left_out_the_next_key_gets(with_any_api):
    async def test(api):
        grant = api.provider.grant

        async def die(*_arguments):
            raise CreditsUnavailable(cause="died")

        api.provider.grant = die
        assert (await api.call("POST /api-keys", {}, user="alice")).slug == "credits-unavailable"
        api.provider.grant = grant
        assert (await api.call("POST /api-keys", {}, user="alice")).json["credits"] == SIGNUP_CREDITS
        keys = (await api.call("GET /api-keys", user="alice")).json["api_keys"]
        assert sorted(key["available"] for key in keys) == [0, SIGNUP_CREDITS]

    with_any_api(test)


def test_a_key_whose_credits_the_admin_chose_leaves_the_users_free_ones_for_later(with_api):
    async def test(api):
        assert (await api.new_key("alice", credits=7))["credits"] == 7
        assert (await api.new_key("alice"))["credits"] == SIGNUP_CREDITS
        assert (await api.new_key("alice"))["credits"] == 0

    with_api(test)


def test_where_nothing_is_free_nothing_is_granted(with_api):
    async def test(api):
        made = (await api.call("POST /api-keys", {}, user="alice")).json
        assert made["credits"] == 0
        assert (await api.call("GET /credits/transactions", key=made["api_key"])).json["transactions"] == []

    with_api(test, config={"credits": {"signup_credits": 0}})
