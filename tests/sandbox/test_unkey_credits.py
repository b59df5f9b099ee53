"""Credits of the stand-in: a stored value, a live counter before it, and all that this leads to at Unkey."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sandbox.unkey.settings import Settings
from tests.sandbox.unkey_caller import tell

LAG_SECONDS = 5


def lagging(**settings):
    return {"settings": Settings(replay_lag_seconds=LAG_SECONDS, **settings)}


def test_every_credit_is_taken_once_however_many_ask_at_once():
    async def story(unkey):
        key_id, key = await unkey.create(50)
        codes = [code for code, _ in await asyncio.gather(*(unkey.cost(key, 3) for _ in range(40)))]
        assert codes.count("VALID") == 16
        assert await unkey.cost(key, 2) == ("VALID", 0)
        assert unkey.balances.spent[key_id] == 50

    tell(story)


def test_the_stored_value_lags_behind_the_live_counter():
    async def story(unkey):
        key_id, key = await unkey.create(100)
        assert await unkey.cost(key, 30) == ("VALID", 70)
        assert await unkey.stored(key_id) == 100
        unkey.clock.advance(LAG_SECONDS)
        assert await unkey.stored(key_id) == 70

    tell(story, **lagging())


def test_list_and_whoami_show_the_stored_value():
    async def story(unkey):
        _, key = await unkey.create(100)
        await unkey.cost(key, 30)
        (listed,) = await unkey.data("apis.listKeys", apiId="api_sandbox")
        assert listed["credits"] == (await unkey.data("keys.whoami", key=key))["credits"] == {"remaining": 100}

    tell(story, **lagging())


def test_without_a_lag_both_are_the_same():
    async def story(unkey):
        key_id, key = await unkey.create(100)
        await unkey.cost(key, 30)
        assert await unkey.stored(key_id) == 70

    tell(story)


def test_a_top_up_drops_the_live_counter_so_that_spends_not_yet_replayed_come_back():
    async def story(unkey):
        key_id, key = await unkey.create(1000)
        await unkey.cost(key, 900)
        assert await unkey.update_credits(key_id, "increment", 100) == {"remaining": 1100}
        assert await unkey.cost(key, 1) == ("VALID", 1099)
        unkey.clock.advance(LAG_SECONDS)
        assert await unkey.stored(key_id) == 199
        assert await unkey.cost(key, 1000) == ("VALID", 99)
        unkey.clock.advance(LAG_SECONDS)
        assert await unkey.stored(key_id) == 0
        assert unkey.balances.spent[key_id] == 1901

    tell(story, **lagging())


def test_a_counter_lives_a_minute_that_spends_do_not_prolong():
    async def story(unkey):
        _, key = await unkey.create(100)
        await unkey.cost(key, 10)
        unkey.clock.advance(59)
        assert await unkey.cost(key, 10) == ("VALID", 80)
        unkey.clock.advance(1)
        assert await unkey.cost(key, 0) == ("VALID", 100)

    tell(story, settings=Settings(replay_lag_seconds=600))


def test_each_region_has_a_counter_of_its_own():
    async def story(unkey):
        key_id, key = await unkey.create(100)
        verdicts = [await unkey.cost(key, 100) for _ in range(4)]
        assert verdicts == [("VALID", 0), ("VALID", 0), ("USAGE_EXCEEDED", 0), ("USAGE_EXCEEDED", 0)]
        assert unkey.balances.spent[key_id] == 200

    tell(story, **lagging(regions=2))


def test_a_top_up_reaches_other_regions_when_their_counters_end():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        assert [await unkey.cost(key, 5) for _ in range(2)] == [("VALID", 5), ("VALID", 5)]
        await unkey.update_credits(key_id, "increment", 100)
        assert [(await unkey.cost(key, 0))[1] for _ in range(2)] == [110, 5]
        unkey.clock.advance(60)
        assert [(await unkey.cost(key, 0))[1] for _ in range(2)] == [100, 100]

    tell(story, **lagging(regions=2))


def test_an_increment_that_is_sent_twice_counts_twice():
    async def story(unkey):
        key_id, _ = await unkey.create(10)
        assert [await unkey.update_credits(key_id, "increment", 5) for _ in range(2)] == [
            {"remaining": 15},
            {"remaining": 20},
        ]

    tell(story)


def test_a_decrement_stops_at_zero():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        assert await unkey.update_credits(key_id, "decrement", 4) == {"remaining": 6}
        assert await unkey.update_credits(key_id, "decrement", 7) == {"remaining": 0}
        assert await unkey.cost(key, 1) == ("USAGE_EXCEEDED", 0)

    tell(story)


def test_set_writes_the_value_and_null_or_nothing_makes_the_key_unlimited():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        assert await unkey.update_credits(key_id, "set", 70) == {"remaining": 70}
        assert await unkey.cost(key, 0) == ("VALID", 70)
        assert await unkey.update_credits(key_id, "set", None) == {"remaining": None}
        assert await unkey.cost(key, 1) == ("VALID", None)
        await unkey.update_credits(key_id, "set", 5)
        assert await unkey.data("keys.updateCredits", keyId=key_id, operation="set") == {"remaining": None}
        assert await unkey.stored(key_id) is None

    tell(story)


def test_set_while_spends_wait_for_their_replay_is_corrupted_by_them():
    async def story(unkey):
        key_id, key = await unkey.create(100)
        await unkey.cost(key, 60)
        await unkey.update_credits(key_id, "set", 100)
        unkey.clock.advance(LAG_SECONDS)
        assert await unkey.stored(key_id) == 40

    tell(story, **lagging())


def test_set_to_null_ends_the_refill_and_no_value_keeps_it():
    refill = {"interval": "monthly", "amount": 10, "refillDay": 3}

    async def story(unkey):
        key_id, _ = await unkey.create(credits={"remaining": 5, "refill": refill})
        assert await unkey.update_credits(key_id, "increment", 1) == {"remaining": 6, "refill": refill}
        assert await unkey.data("keys.updateCredits", keyId=key_id, operation="set") == {
            "remaining": None,
            "refill": refill,
        }
        await unkey.update_credits(key_id, "set", None)
        assert await unkey.update_credits(key_id, "set", 1) == {"remaining": 1}

    tell(story)


@pytest.mark.parametrize("operation", ["increment", "decrement"])
def test_an_unlimited_key_can_not_be_counted_up_or_down(operation):
    async def story(unkey):
        key_id, _ = await unkey.create()
        refusal = await unkey.refused("keys.updateCredits", keyId=key_id, operation=operation, value=5)
        assert refusal == (400, "unkey/application/invalid_input")
        assert await unkey.stored(key_id) is None

    tell(story)


@pytest.mark.parametrize("value", [{}, {"value": None}])
@pytest.mark.parametrize("operation", ["increment", "decrement"])
def test_counting_up_or_down_needs_a_value(operation, value):
    async def story(unkey):
        key_id, _ = await unkey.create(10)
        refusal = await unkey.refused("keys.updateCredits", keyId=key_id, operation=operation, **value)
        assert refusal == (400, "unkey/application/invalid_input")
        assert await unkey.stored(key_id) == 10

    tell(story)


def test_a_refill_raises_the_stored_value_and_is_not_seen_by_the_live_counter():
    async def story(unkey):
        poor, key = await unkey.create(credits={"remaining": 10, "refill": {"interval": "daily", "amount": 50}})
        rich, _ = await unkey.create(credits={"remaining": 80, "refill": {"interval": "daily", "amount": 50}})
        await unkey.cost(key, 10)
        await unkey.control("POST", "refills")
        assert [await unkey.stored(poor), await unkey.stored(rich)] == [50, 80]
        assert await unkey.cost(key, 1) == ("USAGE_EXCEEDED", 0)
        unkey.clock.advance(60)
        assert await unkey.cost(key, 1) == ("VALID", 49)

    tell(story)


# The cache of rows that verifyKey answers from.

CACHING = {"settings": Settings(key_cache_seconds=10)}


@pytest.mark.parametrize(
    ("call", "change", "after"),
    [("keys.updateKey", {"enabled": False}, "DISABLED"), ("keys.deleteKey", {}, "NOT_FOUND")],
)
def test_a_key_goes_on_being_valid_for_ten_seconds_after_it_is_disabled_or_deleted(call, change, after):
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.verify(key)
        await unkey.data(call, keyId=key_id, **change)
        unkey.clock.advance(9.9)
        assert await unkey.cost(key, 1) == ("VALID", 8)
        unkey.clock.advance(0.1)
        assert (await unkey.verify(key))["code"] == after

    tell(story, **CACHING)


def test_a_row_that_is_no_longer_fresh_serves_one_more_answer():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.verify(key)
        await unkey.data("keys.updateKey", keyId=key_id, enabled=False)
        unkey.clock.advance(599)
        assert [(await unkey.verify(key))["code"] for _ in range(2)] == ["VALID", "DISABLED"]

    tell(story, settings=Settings(key_cache_seconds=10, key_cache_stale_seconds=600))


def test_a_row_that_is_older_than_stale_is_read_anew():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.verify(key)
        await unkey.data("keys.updateKey", keyId=key_id, enabled=False)
        unkey.clock.advance(600)
        assert (await unkey.verify(key))["code"] == "DISABLED"

    tell(story, settings=Settings(key_cache_seconds=10, key_cache_stale_seconds=600))


def test_a_key_that_becomes_limited_spends_when_the_cached_row_ends():
    async def story(unkey):
        key_id, key = await unkey.create()
        await unkey.verify(key)
        await unkey.update_credits(key_id, "set", 5)
        assert await unkey.cost(key, 5) == ("VALID", None)
        unkey.clock.advance(10)
        assert await unkey.cost(key, 5) == ("VALID", 0)

    tell(story, **CACHING)


def test_a_key_that_becomes_unlimited_tells_minus_one_while_the_cached_row_has_credits():
    async def story(unkey):
        key_id, key = await unkey.create(5)
        await unkey.verify(key)
        await unkey.update_credits(key_id, "set", None)
        assert await unkey.cost(key, 100) == ("VALID", -1)
        unkey.clock.advance(10)
        assert await unkey.cost(key, 100) == ("VALID", None)

    tell(story, **CACHING)


def test_a_refused_verdict_tells_the_credits_of_the_cached_row():
    async def story(unkey):
        _, key = await unkey.create(10)
        assert await unkey.cost(key, 4) == ("VALID", 6)
        assert (await unkey.verify(key, permissions="none"))["credits"] == 10

    tell(story, **CACHING)


def test_a_new_key_works_at_once_though_rows_are_cached():
    async def story(unkey):
        _, key = await unkey.create(1)
        assert (await unkey.verify(key))["code"] == "VALID"

    tell(story, **CACHING)
