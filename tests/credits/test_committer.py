"""Who stands by for a commit, for how long, and that everybody is told of it exactly once."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from gateway.credits.batch import Transaction
from gateway.credits.committer import PATIENCE_SECONDS, LoopCommitter, ThreadCommitter, finish
from gateway.credits.pending import Batch
from tests.credits.conftest import until

Told = list[tuple[Batch, Exception | None]]


def committing(work: Callable[[Batch], None]) -> tuple[ThreadCommitter, Told]:
    told: Told = []

    async def commit(batch: Batch) -> None:
        work(batch)

    committer = ThreadCommitter(commit, asyncio.get_running_loop(), lambda *those: told.append(those))
    committer.start()
    return committer, told


def awaiting(work: Callable[[], Awaitable[object]]) -> tuple[LoopCommitter, Told]:
    told: Told = []

    async def commit(_: Batch) -> None:
        await work()

    committer = LoopCommitter(commit, asyncio.get_running_loop(), lambda *those: told.append(those))
    committer.start()
    return committer, told


def test_a_call_that_is_alone_has_its_commit_without_a_turn_of_the_loop(run, monkeypatch):
    monkeypatch.setattr("gateway.credits.committer.PATIENCE_SECONDS", 10.0)

    async def main():
        committer, told = committing(lambda _: None)
        batches = [Batch() for _ in range(50)]
        for batch in batches:
            committer.commit_at_once(batch)
        assert told == [(batch, None) for batch in batches]
        assert await committer.stop(5)

    run(main())


def test_a_commit_that_hangs_is_left_to_the_thread_and_then_none_is_stood_by_for_till_one_was_quick(run):
    gate = threading.Event()

    async def main():
        committer, told = committing(lambda _: gate.wait() and None)
        slow, next_one = Batch(), Batch()
        committer.commit_at_once(slow)  # would never return
        assert told == []
        time.sleep(2 * PATIENCE_SECONDS)
        gate.set()
        await until(lambda: told == [(slow, None)])
        committer.commit_at_once(next_one)
        assert told == [(slow, None)], "it was stood by for"
        await until(lambda: len(told) == 2)
        assert await committer.stop(5)

    run(main())


def test_who_is_told_by_the_loop_and_who_in_place_is_told_once_and_in_order(run):
    """Commits as long as the patience, so that either may come first."""

    async def main():
        committer, told = committing(lambda _: time.sleep(PATIENCE_SECONDS * 0.9))
        batches = [Batch() for _ in range(60)]
        for number, batch in enumerate(batches, 1):
            committer._is_quick = True
            committer.commit_at_once(batch)
            await until(lambda number=number: len(told) == number)
        assert [batch for batch, _ in told] == batches
        assert await committer.stop(5)
        assert len(told) == len(batches)

    run(main())


@pytest.mark.parametrize("patience", [0.0, 10.0], ids=["by-the-loop", "in-place"])
def test_what_a_commit_raised_is_told(run, monkeypatch, patience):
    monkeypatch.setattr("gateway.credits.committer.PATIENCE_SECONDS", patience)
    error = ValueError("no")

    def fail(_: Batch) -> None:
        raise error

    async def main():
        committer, told = committing(fail)
        batch = Batch()
        committer.commit_at_once(batch)
        await until(lambda: told == [(batch, error)])
        assert await committer.stop(5)

    run(main())


def test_what_suspends_where_there_is_no_loop_is_a_defect_that_is_told(run):
    async def main():
        committer = ThreadCommitter(lambda _: asyncio.sleep(1), asyncio.get_running_loop(), lambda *those: None)
        with pytest.raises(RuntimeError, match="it suspends"):
            finish(committer._commit(Batch()))
        told = []
        committer._told = lambda *those: told.append(those)
        committer.start()
        batch = Batch()
        committer.commit(batch)
        await until(lambda: bool(told))
        assert told[0][0] is batch
        assert isinstance(told[0][1], RuntimeError)
        assert await committer.stop(5)

    run(main())


def test_a_commit_that_waits_for_a_server_is_told_with_what_it_raised_and_how_long_it_took(run):
    async def main():
        gate = asyncio.Event()
        error = ValueError("no")

        async def fail():
            await gate.wait()
            await asyncio.sleep(0.02)
            raise error

        committer, told = awaiting(fail)
        first, second = Batch(), Batch()
        committer.commit_at_once(first)
        await asyncio.sleep(0.01)
        assert told == []
        gate.set()
        await until(lambda: told == [(first, error)])
        assert committer.waited_seconds >= 0.02
        committer.commit(second)
        await until(lambda: told == [(first, error), (second, error)])
        assert await committer.stop(5)

    run(main())


@pytest.mark.parametrize("is_busy", [True, False])
def test_who_is_busy_while_he_waits_for_the_server_does_not_know_how_long_it_took(run, is_busy):
    async def main():
        committer, told = awaiting(lambda: asyncio.sleep(0.02))

        async def wait_once():
            told.clear()
            committer.commit(Batch())
            busy_until = time.monotonic() + 0.05
            while is_busy and time.monotonic() < busy_until:
                pass
            await until(lambda: bool(told))
            return committer.was_busy

        # Another thread of the tests may want the interpreter's lock just then, and that is a rest too.
        assert is_busy in [await wait_once() for _ in range(10 if is_busy else 1)]
        assert await committer.stop(5)

    run(main())


def test_a_commit_goes_on_in_the_moment_in_which_the_store_says_that_the_answer_is_there(run):
    async def main():
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in range(3)]
        reached = []

        async def steps():
            for number, answer in enumerate(answers):
                await answer
                reached.append(number)

        committer, told = awaiting(steps)
        batch = Batch()
        committer.go_on()  # there is nothing that could
        committer.commit(batch)
        for number, answer in enumerate(answers):
            committer.go_on()  # too early
            assert len(reached) == number
            answer.set_result(None)
            committer.go_on()
            committer.go_on()  # too late
            assert len(reached) == number + 1
        assert told == [(batch, None)]
        await asyncio.sleep(0)  # the answers' own callbacks come, when all is done
        assert told == [(batch, None)]
        assert await committer.stop(0)

    run(main())


def test_who_has_a_batch_committed_is_never_told_before_that_call_returns(run):
    """He would have the next one committed inside that, and so on: as deep as there are batches."""

    async def main():
        error = ValueError("at once")

        async def fail():
            raise error

        committer, told = awaiting(fail)
        batch = Batch()
        committer.commit(batch)
        assert told == []
        await until(lambda: told == [(batch, error)])
        assert await committer.stop(0)

    run(main())


def test_who_comes_when_all_has_ended_touches_nobody_elses_files(run, monkeypatch):
    monkeypatch.setattr("gateway.credits.committer.PATIENCE_SECONDS", 10.0)

    async def main():
        committer, told = committing(lambda _: None)
        committer.commit_at_once(Batch())
        assert len(told) == 1
        assert await committer.stop(5)
        ours, theirs = socket.socketpair()  # most likely with the numbers that the committer's pipe had
        with ours, theirs:
            ours.send(b"theirs")
            theirs.send(b"ours")
            committer.commit_at_once(Batch())
            assert (ours.recv(9), theirs.recv(9)) == (b"ours", b"theirs")
        assert len(told) == 1

    run(main())


def test_what_is_broken_off_and_fails_later_is_nothing_to_complain_of(run, caplog):
    async def main():
        future = asyncio.get_running_loop().create_future()

        async def wait():
            await asyncio.shield(future)

        committer, _ = awaiting(wait)
        committer.commit(Batch())
        assert not await committer.stop(0.01)
        assert committer._awaited is None
        future.set_exception(ValueError("nobody there"))
        future.exception()
        await asyncio.sleep(0)  # who had awaited it hears of it

    run(main())
    gc.collect()
    assert caplog.records == []


def test_a_thread_that_has_ended_keeps_no_file_open(run):
    async def main():
        before = set(os.listdir("/proc/self/fd"))
        committer, _ = committing(lambda _: None)
        opened = set(os.listdir("/proc/self/fd")) - before
        assert opened
        committer.commit_at_once(Batch())
        assert await committer.stop(5)
        assert not opened & set(os.listdir("/proc/self/fd"))

    run(main())


def test_stopping_waits_for_the_commit_under_way_and_begins_no_other(run):
    async def main():
        committer, told = awaiting(lambda: asyncio.sleep(0.1))
        assert await committer.stop(0), "nothing was under way"
        committer, told = awaiting(lambda: asyncio.sleep(0.1))
        first = Batch()
        committer.commit(first)
        assert await committer.stop(10)
        assert told == [(first, None)]
        committer.commit(Batch())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_stopping_leaves_behind_what_hangs_and_nothing_is_heard_of_it(run, caplog):
    async def main():
        loop = asyncio.get_running_loop()
        committer, told = awaiting(loop.create_future)
        committer.commit(Batch())
        began = loop.time()
        assert not await committer.stop(0.05)
        assert loop.time() - began < 5
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return told

    assert run(main()) == []
    gc.collect()
    assert caplog.records == []


class HangingStore:
    """One whose read breaks down, and whose server then does not answer any more."""

    is_closed = False

    def begin(self, instance, *, is_read_only):
        pass

    async def read(self, wanted):
        raise RuntimeError("a defect")

    async def rollback(self):
        await asyncio.get_running_loop().create_future()

    def wait_for_lock(self, milliseconds):
        pass

    def close(self):
        self.is_closed = True


def test_a_batch_that_is_broken_off_while_it_is_rolled_back_closes_its_connection():
    async def main():
        store = HangingStore()
        commit = asyncio.create_task(Transaction(store, lambda: 1).commit([], []))
        await asyncio.sleep(0)
        commit.cancel()
        await asyncio.wait([commit])
        assert store.is_closed

    asyncio.run(main())
