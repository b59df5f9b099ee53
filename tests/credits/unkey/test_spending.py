"""Holds with Unkey: what is asked there, what goes into the allotment, and callers who leave or wait."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.credits.provider import Hold
from gateway.errors import CreditsUnavailable, KeyDisabled, OutOfCredits
from tests.credits.conftest import until
from tests.credits.unkey.harness import CROWD, UnkeyLedger, hold, written


@pytest.fixture
def ledger(tmp_path):
    return UnkeyLedger(tmp_path / "gateway.db")


# The allotment


def test_a_hold_takes_from_the_allotment_first_and_asks_unkey_for_the_rest(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=20)
            await provider.release(await hold(provider, secret, 7, "r1"), "5xx")
            assert ledger.remaining(key.key_id) == 13
            second = await hold(provider, secret, 10, "r2")
            assert second.available == 10
            third = await hold(provider, secret, 10, "r3")
            assert third.available == 0
            assert ledger.asked() == [7, 3, 10]
            await provider.settle(second, 10)
            await provider.settle(third, 10)
            assert ledger.remaining(key.key_id) == 0
        ledger.audit({})

    run(main())


def test_a_hold_that_the_allotment_pays_still_has_unkey_check_the_key(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=5)
            await provider.release(await hold(provider, secret, 5, "r1"), "5xx")
            await provider.settle(await hold(provider, secret, 4, "r2"), 4)
            assert ledger.asked() == [5, 0]
            ledger.server.call("keys.updateKey", {"keyId": key.key_id, "enabled": False})
            with pytest.raises(KeyDisabled):
                await hold(provider, secret, 1, "r3")
            await written(provider)
            assert ledger.rows("SELECT balance, held FROM keys") == [(1, 0)]
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("kept", [0, 1, 6, 7])
def test_what_a_call_did_not_use_goes_to_the_allotment_and_never_back_to_unkey(ledger, run, kept):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=20)
            await provider.settle(await hold(provider, secret, 7, "r1"), kept, "told")
            assert ledger.rows("SELECT balance, held FROM keys") == [(7 - kept, 0)]
            assert (await provider.balance(key.key_id)).available == 20 - kept
            assert ledger.remaining(key.key_id) == 13
            assert ledger.server.books.updates == []
        ledger.audit({})

    run(main())


def test_what_is_drawn_and_not_used_goes_back_to_the_allotment(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=10)
            await provider.release(await hold(provider, secret, 6, "r1"), "5xx")
            second = await hold(provider, secret, 8, "r2")  # 6 of the allotment, 2 of Unkey
            assert ledger.rows("SELECT balance, held FROM keys") == [(6, 6)]
            await provider.settle(second, 7)
            assert ledger.rows("SELECT balance, held FROM keys") == [(1, 0)]
            assert ledger.asked() == [6, 2]
        ledger.audit({})

    run(main())


def test_a_refused_hold_puts_what_it_had_drawn_back(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            await provider.release(await hold(provider, secret, 6, "r1"), "5xx")
            with pytest.raises(OutOfCredits) as caught:
                await hold(provider, secret, 11, "r2")
            members = caught.value.members
            assert (members["available"], members["held"], members["shortfall"]) == (10, 0, 1)
            await written(provider)
            assert (await provider.balance(key.key_id)).available == 10
            assert ledger.count("doubts") == 0
        ledger.audit({})

    run(main())


def test_an_unlimited_key_puts_nothing_into_the_allotment(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=None)
            await provider.release(await hold(provider, secret, 7, "r1"), "5xx")
            await provider.settle(await hold(provider, secret, 7, "r2"), 3)
            await provider.settle(await hold(provider, secret, 7, "r3"), 7)
            third = await hold(provider, secret, 7, "r4")
            await provider.keep(third)
            await provider.settle(third, 2)
            assert ledger.asked() == [7, 7, 7, 7]
            assert ledger.rows("SELECT balance, held FROM keys") == [(0, 0)]
            assert (await provider.balance(key.key_id)).available is None
        ledger.audit({})

    run(main())


def test_two_processes_share_one_allotment_and_draw_it_once(ledger, run):
    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            secret, _ = await one.create("u", credits=30)
            await one.release(await hold(one, secret, 10, "r0"), "5xx")
            holds = await asyncio.gather(*(hold(p, secret, 3, f"{p is one}{n}") for n in range(5) for p in (one, two)))
            assert sum(ledger.asked()) - 10 == 3 * 10 - 10
            assert ledger.remaining(ledger.rows("SELECT unkey_id FROM keys")[0][0]) == 0
            for number, taken in enumerate(holds):
                await (one, two)[number % 2].settle(taken, 3)
        ledger.audit({})

    run(main())


# Callers who leave, and who wait


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("cost", [10, 0])
def test_a_caller_who_leaves_while_unkey_is_asked_leaves_no_doubt_and_no_hold(ledger, run, known, cost):
    async def main():
        async with ledger.provider() as provider:
            if known:
                secret, key = await provider.create("u", credits=50)
                await provider.settle(await hold(provider, secret, 1, "r0"), 0)
                key_id = key.key_id
            else:
                key_id, secret = ledger.server.create_key(credits=50)
            before = len(ledger.verifies())
            ledger.fail("slow", seconds=0.2)
            asking = asyncio.create_task(hold(provider, secret, cost, "r1"))
            await until(lambda: len(ledger.verifies()) == before + 1)
            asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled()
            await until(lambda: provider._spending._left)
            await written(provider)
            assert [ledger.count(table) for table in ("doubts", "unkey_holds")] == [0, 0]
            assert (await provider.balance(key_id)).available == 50
            assert len(ledger.verifies()) == before + 1
        ledger.audit({})

    run(main())


def test_callers_who_leave_at_any_moment_leave_no_doubt_and_no_hold(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100_000)
            loop = asyncio.get_running_loop()
            for number in range(CROWD):
                asking = asyncio.create_task(hold(provider, secret, 3, f"r{number}"))
                loop.call_later(number * 0.00002, asking.cancel)
                await asyncio.wait([asking])
                if not asking.cancelled():
                    await provider.release(asking.result(), "5xx")
            await written(provider)
            assert ledger.count("doubts") == 0
            assert ledger.open_holds() == 0
            assert (await provider.balance(key.key_id)).available == 100_000
            assert provider.journal.holds_open == 0
        ledger.audit({})

    run(main())


def test_closing_waits_for_verifies_whose_callers_have_left(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=50)
            ledger.fail("slow", seconds=0.3)
            asking = asyncio.create_task(hold(provider, secret, 10, "r1"))
            await until(lambda: len(ledger.verifies()) == 1)
            asking.cancel()
        assert ledger.count("doubts") == 0
        assert ledger.open_holds() == 0
        assert ledger.rows("SELECT balance, held FROM keys") == [(10, 0)]
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_whoever_waits_is_told_within_two_seconds_however_unkeys_slowness_is_spread(ledger, run, known):
    """The wait for another caller's first use, and the one for Unkey itself, have one deadline together."""

    async def main():
        async with ledger.provider() as provider:
            if known:
                secret, _ = await provider.create("u", credits=50)
            else:
                _, secret = ledger.server.create_key(credits=50)
            ledger.fail("slow", seconds=1.5)
            began = time.monotonic()

            async def timed(number):
                try:
                    return await hold(provider, secret, 1, f"r{number}"), time.monotonic() - began
                except CreditsUnavailable:
                    return None, time.monotonic() - began

            outcomes = await asyncio.gather(*(timed(number) for number in range(4)))
            assert max(seconds for _, seconds in outcomes) < 2.9  # one wait after the other would be 3 s and more
            for taken, _ in outcomes:
                if isinstance(taken, Hold):
                    await provider.release(taken, "5xx")
            await written(provider)
        ledger.audit()

    run(main())
