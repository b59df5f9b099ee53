"""Spend caps: what they owe, whoever keeps keys and credits, on each database."""

from __future__ import annotations

import asyncio
import os

import pytest

from gateway.credits.periods import DAY_MS
from gateway.credits.provider import Hold, SpendCap, SpendCaps
from gateway.credits.store_postgres import PostgresStore
from gateway.credits.store_sqlite import SqliteStore
from gateway.errors import OutOfCredits, SpendCapReached
from tests.credits import claiming
from tests.credits.capping import APRIL, MIDNIGHT, audit_caps, refused, spend, spent, take
from tests.credits.claiming import KEEPERS, claim, ledger_of
from tests.credits.conftest import NOON, until

CROWD = 500 if os.environ.get("TORTURE") else 100
"""At once, of each of two processes."""


@pytest.fixture(params=KEEPERS)
def ledger(request, database_of, clock):
    return ledger_of(request.param, database_of)


@pytest.mark.parametrize("credits", [100, None])
def test_a_key_spends_up_to_its_cap_and_no_further(ledger, run, credits):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=credits, spend_caps={"day": 10})
            assert key.spend_caps == SpendCaps(SpendCap(10, 0, MIDNIGHT), None)
            await spend(provider, secret, 4)
            hold = await take(provider, secret, 4)
            for _ in range(2):  # and a refusal counts for nothing
                assert await refused(provider, secret, 3) == {
                    "cap": "day",
                    "limit": 10,
                    "spent": 8,
                    "cost": 3,
                    "resets_at": MIDNIGHT,
                }
            assert (await take(provider, secret, 0)).cost == 0
            last = await take(provider, secret, 2)
            assert (await refused(provider, secret, 1))["spent"] == 10
            assert (await take(provider, secret, 0)).cost == 0
            assert (await provider.get(key.key_id)).spend_caps == SpendCaps(SpendCap(10, 10, MIDNIGHT), None)
            audit_caps(ledger)
            for one in (hold, last):
                await provider.settle(one, one.cost)
        audit_caps(ledger)

    run(main())


def test_of_two_caps_the_tighter_one_holds_and_the_one_that_lasts_longer_is_named(ledger, run, clock):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 5, "month": 8})
            await spend(provider, secret, 5)
            assert (await refused(provider, secret, 1))["cap"] == "day"
            both = await refused(provider, secret, 4)
            assert (both["cap"], both["limit"], both["spent"], both["resets_at"]) == ("month", 8, 5, APRIL)
            clock.now = MIDNIGHT
            await spend(provider, secret, 3)
            assert (await refused(provider, secret, 1))["cap"] == "month"
            assert await spent(provider, key.key_id) == (3, 8)

    run(main())


def test_a_cap_of_nothing_lets_only_free_calls_pass(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=None, spend_caps={"day": 0})
            assert (await refused(provider, secret, 1))["limit"] == 0
            assert (await take(provider, secret, 0)).cost == 0

    run(main())


def test_of_two_hundred_callers_at_two_processes_as_many_pass_as_the_cap_allows(ledger, run):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            secret, key = await one.create("u", credits=None, spend_caps={"month": 10})
            outcomes = await asyncio.gather(
                *(take(provider, secret, 1) for _ in range(CROWD) for provider in (one, two)), return_exceptions=True
            )
            holds = [outcome for outcome in outcomes if isinstance(outcome, Hold)]
            assert len(holds) == 10
            assert [outcome for outcome in outcomes if not isinstance(outcome, (Hold, SpendCapReached))] == []
            audit_caps(ledger)
            for hold in holds[:4]:  # somebody else may end them meanwhile
                await (one if hold.id >> 40 == one.heart.instance else two).release(hold, "test")
            assert await spent(two, key.key_id) == (None, 6)
        audit_caps(ledger)

    run(main())


def test_a_crowd_that_fails_and_comes_again_loses_nothing_of_the_cap(ledger, run):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            secret, key = await one.create("u", credits=10_000, spend_caps={"day": 40, "month": 10_000})
            reached = []

            async def call(provider, number):
                for _ in range(3):
                    try:
                        hold = await take(provider, secret, 4)
                    except SpendCapReached:
                        continue
                    kept = number % 5 and 1
                    reached.append(kept)
                    await provider.settle(hold, kept)

            await asyncio.gather(*(call(provider, n) for n in range(20) for provider in (one, two)))
            assert await spent(one, key.key_id) == (sum(reached), sum(reached))
        audit_caps(ledger)

    run(main())


@pytest.mark.parametrize("kept", [0, 3, 10])
def test_what_is_not_kept_of_a_hold_can_be_spent_again(ledger, run, kept):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 10, "month": 10})
            hold = await take(provider, secret, 10)
            await (provider.settle(hold, kept) if kept else provider.release(hold, "5xx"))
            assert await spent(provider, key.key_id) == (kept, kept)
            audit_caps(ledger)
            await refused(provider, secret, 11 - kept)
            await take(provider, secret, 10 - kept)

    run(main())


def test_what_a_dead_process_held_is_given_back_by_whoever_ends_it(ledger, run):
    async def main():
        async with ledger.provider(heartbeat_seconds=0.05, dead_after_seconds=0.3) as survivor:
            secret, key = await survivor.create("u", credits=100, spend_caps={"day": 10, "month": 10})
            async with ledger.provider(heartbeat_seconds=60) as dead:
                await take(dead, secret, 4)
                answered = await take(dead, secret, 3)
                await dead.keep(answered)
                await until(lambda: ledger.open_holds() == 0)
            assert await spent(survivor, key.key_id) == (3, 3)
            audit_caps(ledger)
            await take(survivor, secret, 7)

    run(main())


def test_a_day_and_a_month_begin_anew_at_midnight_utc(ledger, run, clock):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000, spend_caps={"day": 10, "month": 15})
            await spend(provider, secret, 10)
            clock.now = MIDNIGHT - 1
            assert (await refused(provider, secret, 1))["resets_at"] == MIDNIGHT
            clock.now = MIDNIGHT
            assert (await provider.get(key.key_id)).spend_caps == SpendCaps(
                SpendCap(10, 0, MIDNIGHT + DAY_MS), SpendCap(15, 10, APRIL)
            )
            await spend(provider, secret, 5)
            assert (await refused(provider, secret, 1))["resets_at"] == APRIL
            clock.now = APRIL - 1
            await refused(provider, secret, 1)
            clock.now = APRIL
            assert await spent(provider, key.key_id) == (0, 0)
            await spend(provider, secret, 10)
            assert await spent(provider, key.key_id) == (10, 10)
        audit_caps(ledger)

    run(main())


@pytest.mark.parametrize(("ends_at", "day", "month"), [(MIDNIGHT - 1, 0, 0), (MIDNIGHT, 7, 7), (APRIL, 7, 7)])
def test_what_comes_back_comes_back_to_the_day_and_month_in_which_it_was_taken(ledger, run, clock, ends_at, day, month):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000, spend_caps={"day": 20, "month": 20})
            old = await take(provider, secret, 9)
            clock.now = ends_at
            if ends_at != MIDNIGHT - 1:
                await spend(provider, secret, 7)
            await provider.release(old, "test")
            assert await spent(provider, key.key_id) == (day, month)

    run(main())


def test_a_hold_that_outlives_its_day_counts_in_none_that_follow(ledger, run, clock):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000, spend_caps={"day": 10, "month": 20})
            hold = await take(provider, secret, 10)
            clock.now = MIDNIGHT
            assert await spent(provider, key.key_id) == (0, 10)
            await provider.settle(hold, 6)
            assert await spent(provider, key.key_id) == (0, 6)

    run(main())


def test_a_process_whose_clock_is_behind_at_midnight_counts_in_the_day_that_has_begun(ledger, run, clock):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000, spend_caps={"day": 10, "month": 100})
            clock.now = MIDNIGHT
            await spend(provider, secret, 6)
            clock.now = MIDNIGHT - 5
            hold = await take(provider, secret, 4)
            assert (await refused(provider, secret, 1))["spent"] == 10
            await provider.release(hold, "test")
            clock.now = MIDNIGHT
            assert await spent(provider, key.key_id) == (6, 6)

    run(main())


@pytest.mark.parametrize("days", [2, 40, 400])
def test_of_two_clocks_far_apart_neither_forgets_what_the_other_has_counted(ledger, run, clock, days):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=1_000, spend_caps={"day": 10, "month": 10})
            for _ in range(5):
                clock.now = NOON + days * DAY_MS
                await spend(provider, secret, 1)
                clock.now = NOON
                await spend(provider, secret, 1)
            for now in (NOON, NOON + days * DAY_MS):
                clock.now = now
                assert (await refused(provider, secret, 1))["spent"] == 10

    run(main())


# Beside other refusals


def test_a_call_that_comes_again_costs_nothing_of_the_cap(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 4})
            first = claim()
            hold = await claiming.take(provider, secret, first)
            for _ in range(3):
                repeat, found = await claiming.ask(provider, secret)
                assert (repeat.cost, found.is_done) == (0, False)
            await provider.settle(hold, 3, None, first)
            repeat, found = await claiming.ask(provider, secret)
            assert (repeat.cost, found.is_done) == (0, True)
            assert await spent(provider, key.key_id) == (3, None)
            with pytest.raises(SpendCapReached):
                await claiming.ask(provider, secret, "b")
            assert ledger.count("answers") == 1
        audit_caps(ledger)

    run(main())


def test_a_call_that_is_refused_for_its_credits_costs_nothing_of_the_cap(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=5, spend_caps={"day": 20})
            with pytest.raises(OutOfCredits):
                await take(provider, secret, 6)
            await until(lambda: not ledger.open_holds())
            assert await spent(provider, key.key_id) == (0, None)
            with pytest.raises(SpendCapReached):  # more credits would not help
                await take(provider, secret, 21)
        audit_caps(ledger)

    run(main())


@pytest.mark.pure
def test_who_has_no_cap_is_asked_nothing_of_it(ledger, run, monkeypatch):
    asked = []

    def watch(kind):
        working = kind.read_caps

        async def look(self, keys):
            asked.append(keys)
            return await working(self, keys)

        monkeypatch.setattr(kind, "read_caps", look)

    async def main():
        watch(SqliteStore)
        watch(PostgresStore)
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=100)
            await spend(provider, secret, 5)
            assert asked == []
            secret, _ = await provider.create("u", credits=100, spend_caps={"day": 50})
            await take(provider, secret, 0)
            assert asked == []
            await spend(provider, secret, 5)
            assert len(asked) == 2

    run(main())


def test_keys_of_one_batch_have_their_caps_to_themselves(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            made = [await provider.create("u", credits=100, spend_caps={"day": cap}) for cap in (3, 5, 7)]
            made.append(await provider.create("u", credits=100))
            outcomes = await asyncio.gather(
                *(take(provider, secret, 1) for _ in range(10) for secret, _ in made), return_exceptions=True
            )
            passed = [hold.key_id for hold in outcomes if isinstance(hold, Hold)]
            assert [passed.count(key.key_id) for _, key in made] == [3, 5, 7, 10]
        audit_caps(ledger)

    run(main())
