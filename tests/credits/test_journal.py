"""What happens to holds when callers leave, or the database stalls, refuses or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time

import pytest

from gateway.credits.batch import Transaction
from gateway.deadlines import NEVER
from gateway.errors import CreditsUnavailable
from tests.credits.conftest import locked, until

BOTH = pytest.mark.parametrize("ledger", ["sqlite", "postgresql"], indirect=True)


@BOTH
def test_a_caller_cancelled_while_its_hold_is_written_leaves_nothing_held(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000)
            for turn in range(200):
                waiting = [
                    asyncio.ensure_future(provider.hold(secret.encode(), 1, "/x", f"r{turn}.{n}")) for n in range(5)
                ]
                for _ in range(turn % 7):
                    await asyncio.sleep(0)
                for future in waiting[:4]:
                    if not future.cancel():
                        await provider.release(future.result(), "was quicker")
                await provider.settle(await waiting[4], 1)
            await until(lambda: provider.journal.pending == 0)
            assert ledger.open_holds() == 0
            assert provider.journal.holds_open == 0
            assert (await provider.balance(key.key_id)).available == 800
        ledger.audit()

    run(main())


@BOTH
def test_a_caller_cancelled_in_the_very_turn_in_which_its_hold_arrives_leaves_nothing_held(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=10)
            first, second = (asyncio.ensure_future(provider.hold(secret.encode(), 1, "/x", f"r{n}")) for n in range(2))
            # Called when both have arrived, and the second has not been woken yet.
            provider.journal._on_commit = lambda *_: provider.journal.holds_open == 2 and second.cancel()
            await provider.settle(await first, 1)
            with pytest.raises(asyncio.CancelledError):
                await second
            await until(lambda: provider.journal.pending == 0)
            assert ledger.open_holds() == 0
        ledger.audit()

    run(main())


@pytest.mark.parametrize("cost", [0, 1, 2], ids=["free", "held", "refused"])
def test_calls_that_come_together_share_their_commits(ledger, run, monkeypatch, cost):
    """Also where the loop would stand by for the commit of one that is alone."""
    monkeypatch.setattr("gateway.credits.committer.PATIENCE_SECONDS", 10.0)

    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=1 if cost == 2 else 1_000)
            sizes = []
            provider.journal._on_commit = lambda size, _: sizes.append(size)
            for turn in range(5):
                calls = (provider.hold(secret.encode(), cost, "/x", f"r{turn}.{n}") for n in range(64))
                taken = await asyncio.gather(*calls, return_exceptions=True)
                await asyncio.gather(*(provider.settle(hold, 1) for hold in taken if cost == 1))
            assert sum(sizes) == 5 * 64 * (2 if cost == 1 else 1)
            assert len(sizes) <= 5 * 4 * (2 if cost == 1 else 1)

    run(main())


def test_whenever_something_got_through_the_door_hears_that_there_is_room(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=1_000)
            pending = []
            provider.journal.on_room = lambda: pending.append(provider.journal.pending)
            taken = await asyncio.gather(*(provider.hold(secret.encode(), 1, "/x", f"r{n}") for n in range(64)))
            assert pending
            assert pending[-1] == 0
            await provider.settle(taken[0], 1)
            before = len(pending)
            await asyncio.gather(*(provider.settle(hold, 1) for hold in taken[1:]))
            assert len(pending) > before
            assert pending[-1] == 0

    run(main())


@BOTH
def test_cancelling_the_wait_for_a_settlement_does_not_undo_it(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            asyncio.ensure_future(provider.settle(hold, 4)).cancel()
            await until(lambda: provider.journal.pending == 0)
            assert (await provider.balance(key.key_id)).available == 6
            assert ledger.open_holds() == 0

    run(main())


def test_a_locked_database_means_503_in_time_and_recovers_by_itself(ledger, run):
    async def main():
        async with ledger.provider(hold_timeout_seconds=0.3) as provider:
            secret, key = await provider.create("u", credits=10)
            settling = await provider.hold(secret.encode(), 1, "/x", "r0")
            with locked(ledger):
                first = asyncio.ensure_future(provider.hold(secret.encode(), 1, "/x", "r1"))
                await asyncio.sleep(0.05)
                late = asyncio.ensure_future(provider.settle(settling, 1))
                second = asyncio.ensure_future(provider.hold(secret.encode(), 1, "/x", "r2"))
                started = time.monotonic()
                outcomes = await asyncio.gather(first, second, late, return_exceptions=True)
                assert all(isinstance(outcome, CreditsUnavailable) for outcome in outcomes), outcomes
                assert time.monotonic() - started < 8
            hold = await asyncio.wait_for(_patient(provider, secret), 30)
            await provider.settle(hold, 1)
            await until(lambda: provider.journal.pending == 0)
            # The hold that timed out and the settlement that was given up are free; one call was paid.
            assert (await provider.balance(key.key_id)).available == 9
            assert ledger.open_holds() == 0
        ledger.audit()

    run(main())


async def _patient(provider, secret):
    while True:
        try:
            return await provider.hold(secret.encode(), 1, "/x", "again")
        except CreditsUnavailable:
            await asyncio.sleep(0.05)


@pytest.mark.pure
def test_a_failed_commit_refuses_its_holds_and_repeats_its_ends(ledger, run, monkeypatch):
    async def main():
        async with ledger.provider(hold_timeout_seconds=5) as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            working = Transaction.commit

            async def fail(*_args):
                raise sqlite3.OperationalError("database or disk is full")

            monkeypatch.setattr(Transaction, "commit", fail)
            settling = asyncio.ensure_future(provider.settle(hold, 4))
            with pytest.raises(CreditsUnavailable):
                await provider.hold(secret.encode(), 1, "/x", "r2")
            assert not settling.done()
            monkeypatch.setattr(Transaction, "commit", working)
            await asyncio.wait_for(settling, 30)
            assert (await provider.balance(key.key_id)).available == 6
        ledger.audit()

    run(main())


@BOTH
def test_closing_commits_what_is_queued(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000)
            holds = await asyncio.gather(*(provider.hold(secret.encode(), 1, "/x", f"r{n}") for n in range(500)))
            futures = [provider.settle(hold, 1) for hold in holds]
        assert all(future.done() for future in futures)
        async with ledger.provider() as provider:
            assert (await provider.balance(key.key_id)).available == 500
        ledger.audit()

    run(main())


def test_one_settlement_that_sql_refuses_does_not_hold_up_the_others(ledger, run):
    async def main():
        async with ledger.provider(hold_timeout_seconds=0.5) as provider:
            secret, key = await provider.create("u", credits=100)
            poisoned = await provider.hold(secret.encode(), 1, "/poison", "r0")
            sound = [await provider.hold(secret.encode(), 1, "/x", f"r{n}") for n in range(1, 9)]
            saboteur = sqlite3.connect(ledger.path, isolation_level=None)
            saboteur.execute(
                "CREATE TRIGGER poison BEFORE INSERT ON entries WHEN NEW.route = '/poison'"
                " BEGIN SELECT raise(ABORT, 'a row that SQL refuses'); END"
            )
            ends = [provider.settle(hold, 1) for hold in (poisoned, *sound)]
            await asyncio.wait_for(asyncio.gather(*ends[1:]), 30)
            with pytest.raises(CreditsUnavailable):
                await ends[0]
            later = await provider.hold(secret.encode(), 1, "/x", "later")
            await asyncio.wait_for(provider.settle(later, 1), 30)
            saboteur.execute("DROP TRIGGER poison")
            saboteur.close()
            await until(lambda: ledger.open_holds() == 0)
            assert (await provider.balance(key.key_id)).available == 91  # 8 and 1 paid, the poisoned one given up
        ledger.audit()

    run(main())


def test_closing_does_not_wait_for_ever_for_a_database_that_takes_nothing(ledger, run, monkeypatch):
    monkeypatch.setattr("gateway.credits.journal.CLOSE_SECONDS", 0.3)

    async def main():
        with contextlib.ExitStack() as for_good:
            async with ledger.provider() as provider:
                secret, _ = await provider.create("u", credits=10)
                hold = await provider.hold(secret.encode(), 1, "/x", "r1")
                for_good.enter_context(locked(ledger))
                provider.settle(hold, 1)
                started = time.monotonic()
            assert time.monotonic() - started < 8
        async with ledger.provider(heartbeat_seconds=0.05, dead_after_seconds=0.3):
            await until(lambda: ledger.open_holds() == 0)
        ledger.audit()

    run(main())


def test_a_stream_under_way_is_paid_though_its_settlement_was_late(ledger, run):
    async def main():
        async with ledger.provider(hold_timeout_seconds=0.3) as provider:
            secret, key = await provider.create("u", credits=100)
            hold = await provider.hold(secret.encode(), 20, "/x", "r1")
            await provider.keep(hold)
            with locked(ledger), pytest.raises(CreditsUnavailable):
                await provider.settle(hold, 7)
            await until(lambda: ledger.open_holds() == 0)
            assert (await provider.balance(key.key_id)).available == 93
        ledger.audit()

    run(main())


def test_a_release_that_comes_late_keeps_its_reason(ledger, run):
    async def main():
        async with ledger.provider(hold_timeout_seconds=0.3) as provider:
            secret, key = await provider.create("u", credits=100)
            hold = await provider.hold(secret.encode(), 20, "/x", "r1")
            with locked(ledger), pytest.raises(CreditsUnavailable):
                await provider.release(hold, "timeout")
            await until(lambda: ledger.open_holds() == 0)
            assert (await provider.history(key.key_id))[0].reason == "timeout"

    run(main())


@pytest.mark.pure
def test_a_commit_that_hangs_does_not_stop_the_loop(ledger, run, monkeypatch):
    released = threading.Event()
    working = Transaction.commit

    async def hang(self, *args):
        released.wait(60)
        await working(self, *args)

    async def main():
        async with ledger.provider(hold_timeout_seconds=0.3) as provider:
            secret, key = await provider.create("u", credits=10)
            monkeypatch.setattr(Transaction, "commit", hang)
            started = time.monotonic()
            with pytest.raises(CreditsUnavailable):
                await provider.hold(secret.encode(), 1, "/x", "r1")
            assert time.monotonic() - started < 8
            released.set()
            await until(lambda: provider.journal.pending == 0)
            assert (await provider.balance(key.key_id)).available == 10
        ledger.audit()

    run(main())


@pytest.mark.pure
@pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)
def test_who_ends_a_hold_is_told_in_time_though_nobody_knows_yet_what_became_of_its_commit(ledger, run, monkeypatch):
    lost, found_out = asyncio.Event(), asyncio.Event()
    working = Transaction.commit

    async def main():
        async with ledger.provider(hold_timeout_seconds=0.3) as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")

            async def lose_the_answer(self, *batch):
                await lost.wait()
                provider.journal.unsure()
                await found_out.wait()
                await working(self, *batch)

            monkeypatch.setattr(Transaction, "commit", lose_the_answer)
            settling = provider.settle(hold, 3)  # alone: nothing else in the batch has a deadline
            await until(lambda: provider.journal.deadline == NEVER)
            lost.set()
            async with asyncio.timeout(20):
                await settling
            assert ledger.open_holds() == 1
            found_out.set()
            await until(lambda: provider.journal.pending == 0)
            assert (await provider.balance(key.key_id)).available == 7
        ledger.audit()

    run(main())


def test_nobody_is_given_up_before_its_time_nor_a_tick_after_it(ledger, run):
    async def main():
        async with ledger.provider(hold_timeout_seconds=1.6) as provider:
            secret, _ = await provider.create("u", credits=100)

            async def waited(delay):
                await asyncio.sleep(delay)
                started = time.monotonic()
                with pytest.raises(CreditsUnavailable):
                    await provider.hold(secret.encode(), 1, "/x", "r")
                return time.monotonic() - started

            with locked(ledger):
                seconds = await asyncio.gather(*(waited(n * 0.035) for n in range(20)))
            assert min(seconds) > 1.59  # the loop's clock has milliseconds
            assert max(seconds) < 1.6 + 0.8  # the tick is 0.02 here, the rest is for a busy machine

    run(main())


@pytest.mark.pure
def test_items_tried_one_by_one_wait_no_longer_than_others(ledger, run, monkeypatch):
    calls = []

    async def refuse_then_lock(_self, *batch):
        calls.append(batch)
        if len(calls) == 1:
            raise sqlite3.IntegrityError("one of these is at fault")
        time.sleep(0.05)
        locked = sqlite3.OperationalError("database is locked")
        locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
        raise locked

    async def main():
        async with ledger.provider(hold_timeout_seconds=0.3) as provider:
            secret, _ = await provider.create("u", credits=100)
            with monkeypatch.context() as patch:
                patch.setattr(Transaction, "commit", refuse_then_lock)
                started = time.monotonic()
                holds = (provider.hold(secret.encode(), 1, "/x", f"r{n}") for n in range(30))
                outcomes = await asyncio.gather(*holds, return_exceptions=True)
                assert all(isinstance(outcome, CreditsUnavailable) for outcome in outcomes), outcomes
                assert time.monotonic() - started < 1.5  # one after the other they would take 1.8 s
                assert calls
            await until(lambda: provider.journal.pending == 0)
        ledger.audit()

    run(main())


@pytest.mark.pure
def test_closing_is_bounded_while_a_commit_hangs_and_does_not_sign_off(ledger, run, monkeypatch):
    monkeypatch.setattr("gateway.credits.journal.CLOSE_SECONDS", 0.1)
    monkeypatch.setattr("gateway.credits.journal.JOIN_SECONDS", 0.1)
    released = threading.Event()
    working = Transaction.commit

    async def hang(self, *batch):
        released.wait(60)
        await working(self, *batch)

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 1, "/x", "r1")
            monkeypatch.setattr(Transaction, "commit", hang)
            provider.settle(hold, 1)
            await until(lambda: provider.journal._committing is not None)
            started = time.monotonic()
        assert time.monotonic() - started < 20
        # Still an instance: whoever came now would end the hold that is being settled.
        assert ledger.count("instances") == 1
        released.set()
        await until(lambda: ledger.count("holds") == 0)
        assert await provider.journal._committer.stop(30)
        provider.journal._transaction.close()
        return key

    run(main())
    ledger.audit()
