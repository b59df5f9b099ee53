"""Who stands by for a commit, for how long, and that everybody is told of it exactly once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from gateway.credits.committer import PATIENCE_SECONDS, Committer
from gateway.credits.pending import Batch
from tests.credits.conftest import until

Told = list[tuple[Batch, Exception | None]]


def committing(work: Callable[[Batch], None]) -> tuple[Committer, Told]:
    told: Told = []
    committer = Committer(work, asyncio.get_running_loop(), lambda batch, failure: told.append((batch, failure)))
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
