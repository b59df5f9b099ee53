"""What becomes of holds whose process dies or whose answer is lost: released, settled, or in doubt."""

from __future__ import annotations

import asyncio

import pytest

from gateway.credits.provider import HoldLost
from gateway.credits.unkey.known_verdicts import KnownVerdicts
from gateway.errors import CreditsUnavailable
from tests.credits.conftest import until
from tests.credits.unkey.harness import UnkeyLedger, hold, written


@pytest.fixture
def ledger(tmp_path):
    return UnkeyLedger(tmp_path / "gateway.db")


def test_a_hold_that_is_confirmed_is_released_when_its_process_dies_and_one_that_is_not_is_in_doubt(ledger, run):
    async def main():
        async with ledger.provider(heartbeat_seconds=0.05, dead_after_seconds=0.4) as survivor:
            secret, key = await survivor.create("u", credits=100)
            async with ledger.provider(heartbeat_seconds=60) as victim:
                early = await hold(victim, secret, 7, "confirmed")
                await until(lambda: ledger.rows("SELECT asked, drawn FROM unkey_holds") == [(0, 7)])
                assert ledger.rows("SELECT balance, held FROM keys") == [(7, 7)]
                ledger.fail("silent", takes_effect=True, times=1)
                asking = asyncio.create_task(hold(victim, secret, 11, "unheard"))
                await until(lambda: len(ledger.verifies()) == 2)
                await until(lambda: ledger.open_holds() == 0, seconds=10)
                assert ledger.rows("SELECT amount, request_id, resolution FROM doubts") == [(11, "unheard", None)]
                assert (await survivor.history(key.key_id))[0].reason == "gateway died"
                assert (await survivor.balance(key.key_id)).available == 89
                with pytest.raises(HoldLost):
                    await victim.settle(early, 7)
                asking.cancel()
                await asyncio.wait([asking])
        ledger.audit({key.key_id: 11})

    run(main())


def test_a_hold_that_is_answered_is_settled_whole_when_its_process_dies(ledger, run):
    async def main():
        async with ledger.provider(heartbeat_seconds=0.05, dead_after_seconds=0.4) as survivor:
            secret, key = await survivor.create("u", credits=100)
            async with ledger.provider(heartbeat_seconds=60) as victim:
                await victim.keep(await hold(victim, secret, 7, "streams"))
                await until(lambda: ledger.open_holds() == 0, seconds=10)
                assert (await survivor.balance(key.key_id)).available == 93
                assert (await survivor.history(key.key_id))[0].amount == -7
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("takes_effect", [True, False])
@pytest.mark.parametrize("kind", ["silent", "reset", "closed", "error", "malformed"])
def test_a_lost_answer_is_a_doubt_of_what_unkey_was_asked_and_never_served(ledger, run, kind, takes_effect):
    async def main():
        ledger.section = {"verify_timeout_seconds": 1}
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=50)
            await provider.release(await hold(provider, secret, 4, "r0"), "5xx")
            ledger.fail(kind, takes_effect=takes_effect, times=1)
            with pytest.raises(CreditsUnavailable) as caught:
                await hold(provider, secret, 10, "r1")
            assert not isinstance(caught.value, HoldLost)
            await written(provider)
            assert ledger.rows("SELECT amount, request_id FROM doubts") == [(6, "r1")]
            assert ledger.rows("SELECT balance, held FROM keys") == [(4, 0)]
            assert len(ledger.verifies()) == 2
            ledger.audit({key.key_id: 6 if takes_effect else 0})
            (movement,) = await provider.list_movements(unsettled=True)
            await provider.resolve_movement(movement.id, "applied" if takes_effect else "not-applied")
            assert (await provider.balance(key.key_id)).available == 50
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 413, 429])
def test_an_answer_that_says_that_nothing_was_done_leaves_no_doubt(ledger, run, status):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=50)
            ledger.fail("error", status=status, times=1)
            with pytest.raises(CreditsUnavailable):
                await hold(provider, secret, 10, "r1")
            await written(provider)
            assert ledger.count("doubts") == 0
            await provider.settle(await hold(provider, secret, 10, "r2"), 10)
        ledger.audit({})

    run(main())


@pytest.mark.pure
@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
def test_a_defect_of_ours_while_unkey_is_asked_is_a_doubt_and_no_hold_that_is_stuck(ledger, run, monkeypatch, leaves):
    def break_down(*_):
        raise RuntimeError("a defect")

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=50)
            await provider.release(await hold(provider, secret, 4, "r0"), "5xx")
            monkeypatch.setattr(KnownVerdicts, "read", break_down)
            ledger.fail("slow", seconds=0.1, times=1)
            asking = asyncio.create_task(hold(provider, secret, 10, "r1"))
            await until(lambda: len(ledger.verifies()) == 2)
            if leaves:
                asking.cancel()
            await asyncio.wait([asking])
            await until(lambda: ledger.open_holds() == 0)
            assert ledger.rows("SELECT amount, cause FROM doubts") == [(6, "a defect: RuntimeError")]
        ledger.audit({key.key_id: 6})

    run(main())
