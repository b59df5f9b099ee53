"""Spend caps where Unkey keeps the credits: it is not asked in vain, and what it may have taken is no spending."""

from __future__ import annotations

import asyncio

import pytest

from gateway.credits.provider import SpendCap, SpendCaps
from gateway.errors import Conflict, CreditsUnavailable
from tests.credits.capping import APRIL, MIDNIGHT, audit_caps, refused, spend, spent, take
from tests.credits.conftest import until
from tests.credits.unkey.harness import UnkeyLedger, written


@pytest.fixture
def ledger(tmp_path, clock):
    return UnkeyLedger(tmp_path / "gateway.db")


def test_a_call_beyond_the_cap_is_never_heard_of_at_unkey(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 10})
            await spend(provider, secret, 9)
            assert ledger.asked() == [9]
            for _ in range(3):
                await refused(provider, secret, 2)
            assert ledger.asked() == [9]
            assert ledger.remaining(key.key_id) == 91
        audit_caps(ledger)

    run(main())


def test_what_the_allotment_gives_counts_as_what_unkey_gives(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 10})
            await provider.release(await take(provider, secret, 8), "test")
            hold = await take(provider, secret, 10)
            assert ledger.asked() == [8, 2]
            assert (await refused(provider, secret, 1))["spent"] == 10
            await provider.settle(hold, 1)
            assert await spent(provider, key.key_id) == (1, None)
        audit_caps(ledger)

    run(main())


@pytest.mark.parametrize("takes_effect", [True, False])
def test_credits_in_doubt_were_not_served_and_are_not_spent(ledger, run, takes_effect):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 10, "month": 10})
            await spend(provider, secret, 3)
            ledger.fail("reset", takes_effect=takes_effect)
            with pytest.raises(CreditsUnavailable):
                await take(provider, secret, 7)
            ledger.server.faults.clear()
            await written(provider)
            assert ledger.count("doubts") == 1
            assert await spent(provider, key.key_id) == (3, 3)
        audit_caps(ledger)

    run(main())


def test_what_was_in_doubt_as_its_process_died_is_given_back_by_recovery(ledger, run):
    async def main():
        async with ledger.provider(heartbeat_seconds=0.05, dead_after_seconds=0.3) as survivor:
            secret, key = await survivor.create("u", credits=100, spend_caps={"day": 10})
            ledger.section["verify_timeout_seconds"] = 30
            async with ledger.provider(heartbeat_seconds=60, hold_timeout_seconds=60) as dead:
                ledger.fail("silent", takes_effect=True, times=1)
                asking = asyncio.ensure_future(take(dead, secret, 4))
                await until(lambda: ledger.count("doubts") == 1)
                assert await spent(survivor, key.key_id) == (0, None)
                asking.cancel()
                await asyncio.wait([asking])
                ledger.server.faults.clear()

    run(main())


def test_a_caller_who_leaves_while_unkey_is_asked_spends_nothing(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 10})
            ledger.fail("slow", seconds=0.3, takes_effect=True, times=1)
            calling = asyncio.ensure_future(take(provider, secret, 4))
            await until(lambda: ledger.verifies() != [])
            assert await spent(provider, key.key_id) == (4, None)
            calling.cancel()
            await asyncio.wait([calling])
            await written(provider)
            assert await spent(provider, key.key_id) == (0, None)
        audit_caps(ledger)

    run(main())


def test_a_key_made_at_unkey_gets_caps_once_it_has_been_used_here(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            key_id, secret = ledger.server.create_key(credits=100)
            with pytest.raises(Conflict, match="first call"):
                await provider.cap(key_id, {"day": 10})
            await spend(provider, secret, 4)
            key = await provider.cap(key_id, {"day": 10})
            assert key.spend_caps == SpendCaps(SpendCap(10, 4, MIDNIGHT), None)
            assert (await refused(provider, secret, 7))["spent"] == 4
        audit_caps(ledger)

    run(main())


@pytest.mark.parametrize("is_confirmed", [False, True])
@pytest.mark.parametrize(("kept", "spent_then"), [(5, 5), (2, 2), (0, 0)])
def test_the_call_that_shows_a_key_first_counts_once_though_the_cap_came_meanwhile(
    ledger, run, is_confirmed, kept, spent_then
):
    """Its hold did not know its key when it was written, and so did nobody who set a cap."""

    async def main():
        async with ledger.provider() as provider:
            key_id, secret = ledger.server.create_key(credits=100)
            hold = await take(provider, secret, 5)
            if is_confirmed:
                await until(lambda: ledger.rows("SELECT key FROM unkey_holds") != [(0,)])
            else:
                await provider.cap(key_id, {"day": 10, "month": 10})
                await until(lambda: ledger.rows("SELECT key FROM unkey_holds") != [(0,)])
                assert await spent(provider, key_id) == (5, 5)
            capped = await provider.cap(key_id, {"day": 10, "month": 10})
            assert capped.spend_caps == SpendCaps(SpendCap(10, 5, MIDNIGHT), SpendCap(10, 5, APRIL))
            await provider.settle(hold, kept)
            assert await spent(provider, key_id) == (spent_then, spent_then)
        audit_caps(ledger)

    run(main())


@pytest.mark.parametrize(("kept", "spent_then"), [(5, 5), (2, 2), (0, 0)])
def test_the_call_that_shows_a_key_first_counts_when_it_ends_if_it_is_quick(ledger, run, monkeypatch, kept, spent_then):
    monkeypatch.setattr("gateway.credits.unkey.spending.CONFIRM_SECONDS", 3600)

    async def main():
        async with ledger.provider() as provider:
            key_id, secret = ledger.server.create_key(credits=100)
            hold = await take(provider, secret, 5)
            await provider.cap(key_id, {"day": 10, "month": 10})
            assert ledger.rows("SELECT key FROM unkey_holds") == [(0,)]
            assert await spent(provider, key_id) == (0, 0)
            await provider.settle(hold, kept)
            assert await spent(provider, key_id) == (spent_then, spent_then)
        audit_caps(ledger)

    run(main())


def test_a_hold_that_is_confirmed_counts_no_second_time(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 10})
            hold = await take(provider, secret, 5)
            await until(lambda: ledger.rows("SELECT asked, drawn FROM unkey_holds") == [(0, 5)])
            await provider.keep(hold)
            assert await spent(provider, key.key_id) == (5, None)
            await provider.settle(hold, 2)
            assert await spent(provider, key.key_id) == (2, None)
        audit_caps(ledger)

    run(main())
