"""What happens to holds when a process dies, or is taken for dead."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from gateway.credits import rate_windows
from gateway.credits.batch import Transaction
from gateway.credits.instances import Watch
from gateway.credits.provider import HoldLost
from tests.credits.conftest import until


def test_holds_of_a_dead_process_are_ended_by_a_survivor(ledger, run):
    async def main():
        async with ledger.provider(heartbeat_seconds=0.05, dead_after_seconds=0.3) as survivor:
            secret, key = await survivor.create("u", credits=10)
            async with ledger.provider(heartbeat_seconds=60) as dead:
                await dead.hold(secret.encode(), 2, "/x", "nothing came")
                answered = await dead.hold(secret.encode(), 3, "/x", "an answer had begun")
                await dead.keep(answered)
                await until(lambda: ledger.open_holds() == 0)
                with pytest.raises(HoldLost):
                    await dead.settle(answered, 1)
            entries = {entry.request_id: entry for entry in await survivor.history(key.key_id)}
            assert (entries["nothing came"].amount, entries["an answer had begun"].amount) == (0, -3)
            assert entries["nothing came"].reason == "gateway died"
            assert (await survivor.balance(key.key_id)).available == 7
        ledger.audit()

    run(main())


def test_holds_left_by_a_process_are_ended_at_the_next_start_even_alone(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=10)
            await provider.hold(secret.encode(), 2, "/x", "r1")
        async with ledger.provider() as provider:
            await until(lambda: ledger.open_holds() == 0)
        ledger.audit()

    run(main())


def test_holds_of_a_living_process_are_left_alone(ledger, run):
    async def main():
        settings = {"heartbeat_seconds": 0.05, "dead_after_seconds": 0.3}
        async with ledger.provider(**settings) as one, ledger.provider(**settings) as two:
            secret, _ = await one.create("u", credits=10)
            hold = await one.hold(secret.encode(), 2, "/x", "r1")
            await asyncio.sleep(1)
            await one.settle(hold, 2)
            assert two.journal.holds_open == 0

    run(main())


def test_a_chore_that_takes_its_time_keeps_no_beat_waiting(ledger, run, monkeypatch):
    """A day's records may be due at once; who beats late meanwhile is taken for dead, and its holds are ended."""

    async def main():
        begun = asyncio.Event()

        async def goes_on(*_):
            begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(rate_windows, "prune", goes_on)
        async with ledger.provider(heartbeat_seconds=0.02):
            await begun.wait()
            ((before,),) = ledger.rows("SELECT beat FROM instances")
            await until(lambda: ledger.rows("SELECT beat FROM instances")[0][0] > before + 2)

    run(main())


def test_a_process_taken_for_dead_goes_on_under_a_new_number(ledger, run):
    async def main():
        async with ledger.provider(heartbeat_seconds=0.05) as provider:
            secret, _ = await provider.create("u", credits=10)
            first = await provider.hold(secret.encode(), 1, "/x", "r1")
            connection = sqlite3.connect(ledger.path, isolation_level=None)
            connection.execute("DELETE FROM instances")
            await until(lambda: connection.execute("SELECT count(*) FROM instances").fetchone()[0] == 1)
            await until(lambda: ledger.open_holds() == 0)
            second = await provider.hold(secret.encode(), 1, "/x", "r2")
            assert second.id >> 40 > first.id >> 40
            await asyncio.sleep(0.2)
            await provider.settle(second, 1)
            connection.close()
        ledger.audit()

    run(main())


@pytest.mark.pure
def test_a_new_number_that_comes_while_a_commit_is_under_way_is_not_lost(ledger, run, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()
    working = Transaction._refusal

    def pause(self, *args):
        if not inside.is_set():
            inside.set()
            go_on.wait(60)
        return working(self, *args)

    async def main():
        async with ledger.provider(heartbeat_seconds=60) as provider:
            secret, _ = await provider.create("u", credits=10)
            monkeypatch.setattr(Transaction, "_refusal", pause)
            first = asyncio.ensure_future(provider.hold(secret.encode(), 1, "/x", "r1"))
            await until(inside.is_set)
            old = provider.heart.instance
            provider.heart.instance = old + 1  # what a beat does that finds its row gone
            go_on.set()
            assert (await first).id >> 40 == old
            second = await provider.hold(secret.encode(), 1, "/x", "r2")
            assert second.id >> 40 == old + 1
            await provider.release(await first, "test")
            await provider.release(second, "test")
            provider.heart.instance = old

    run(main())


@pytest.mark.parametrize("first", ["call", "recovery"])
def test_a_call_and_recovery_that_end_one_hold_in_the_same_batch_do_not_both_count(ledger, run, first):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            if first == "call":
                settling = asyncio.ensure_future(provider.settle(hold, 4))
                provider.journal.end_orphan(hold, 0)
                await settling
            else:
                provider.journal.end_orphan(hold, 0)
                with pytest.raises(HoldLost):
                    await provider.settle(hold, 4)
            await until(lambda: provider.journal.pending == 0)
            assert (await provider.balance(key.key_id)).available == (6 if first == "call" else 10)
        ledger.audit()

    run(main())


def test_a_hold_marked_answered_after_recovery_had_looked_is_settled_whole(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            await provider.keep(hold)
            provider.journal.end_orphan(hold, 0)  # recovery had read the hold before it was marked
            await until(lambda: provider.journal.pending == 0)
            assert (await provider.balance(key.key_id)).available == 6
        ledger.audit()

    run(main())


def test_time_in_which_nobody_could_beat_kills_nobody():
    now = [0.0]
    watch = Watch(lambda: now[0], 20)
    assert watch.dead({1: 7, 2: 7}, own=1) == {}
    now[0] = 26.0  # a lock of 25 seconds: we could not beat, and neither could they
    assert watch.dead({1: 8, 2: 7}, own=1) == {}
    for _ in range(3):
        now[0] += 5
        assert watch.dead({1: 9, 2: 7}, own=1) == {}
    now[0] += 5
    assert watch.dead({1: 9, 2: 7}, own=1) == {2: 7}


def test_readiness_comes_back_without_a_call(ledger, run):
    async def main():
        health = []
        async with ledger.provider(heartbeat_seconds=0.05) as provider:
            provider.heart._on_health = lambda ok, _reason: health.append(ok)
            provider.heart.failed("something")
            await until(lambda: health[-1:] == [True])

    run(main())
