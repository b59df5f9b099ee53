"""How many changes may wait for their commits, by how long those take."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.credits.journal import Journal
from gateway.credits.pace import BUSY_COMMITS, FULL_AT, FULL_AT_MOST, FULL_AT_SERVER, STALL_SECONDS, Pace
from gateway.credits.provider import NO_POLICY
from gateway.deadlines import Deadlines
from tests.credits.conftest import locked, until


def pace_of(seconds, commits=100):
    return commit(Pace(), seconds, commits=commits)


def commit(pace, seconds, *, was_busy=False, commits=1):
    for _ in range(commits):
        pace.begin(1.0)
        pace.end(seconds, was_busy, failed=False)
    return pace


def test_where_commits_wait_for_nobody_two_batches_wait():
    assert pace_of(0).full_at() == FULL_AT


@pytest.mark.parametrize("seconds", [0.0002, 0.001])
def test_where_a_server_is_quick_less_waits(seconds):
    assert pace_of(seconds).full_at() == FULL_AT_SERVER


@pytest.mark.parametrize("seconds", [0.002, 0.01, 0.02])
def test_where_commits_are_slow_so_many_wait_that_calls_are_begun_as_fast(seconds):
    assert pace_of(seconds).full_at() / seconds == pytest.approx(FULL_AT_SERVER / 0.001, rel=0.05)


def test_of_the_newest_half_as_many_wait_where_commits_keep_the_processor_busy():
    assert pace_of(0).full_at(of_newest=True) == FULL_AT // 2


def test_of_the_newest_half_as_many_wait_only_while_the_server_does_not_set_the_rate():
    pace = pace_of(0.005)
    whole = pace.full_at()
    assert pace.full_at(of_newest=True) == whole
    assert commit(pace, 0.005, was_busy=True, commits=BUSY_COMMITS - 1).full_at(of_newest=True) == whole
    assert commit(pace, 0.005, was_busy=True).full_at(of_newest=True) == whole // 2
    assert commit(pace, 0.005).full_at(of_newest=True) == whole
    commit(pace, 0.005, was_busy=True, commits=100)
    assert commit(pace, 0.005).full_at(of_newest=True) == whole // 2  # one rest is an accident
    assert commit(pace, 0.005).full_at(of_newest=True) == whole


def test_there_is_a_bound_however_slow_they_are():
    assert pace_of(10).full_at() == FULL_AT_MOST


def test_one_slow_commit_changes_little():
    assert commit(pace_of(0.001), 0.003).full_at() < 1.5 * FULL_AT_SERVER


def test_the_loops_own_time_is_not_taken_for_the_servers_or_it_would_let_in_ever_more():
    pace = pace_of(0.001)
    assert commit(pace, 0.02, was_busy=True, commits=100).full_at() == FULL_AT_SERVER
    assert commit(Pace(), 0.02, was_busy=True, commits=100).full_at() == FULL_AT


def test_a_server_that_has_become_quicker_is_seen_however_busy_the_loop_is():
    assert commit(pace_of(0.02), 0.001, was_busy=True, commits=100).full_at() == FULL_AT_SERVER


def test_a_commit_that_fails_or_does_not_end_is_a_stall_until_one_succeeds():
    pace = Pace()
    assert not pace.is_stalled(100.0)
    pace.begin(100.0)
    assert not pace.is_stalled(100.0 + STALL_SECONDS)
    assert pace.is_stalled(100.1 + STALL_SECONDS)
    pace.end(STALL_SECONDS, False, failed=True)
    assert pace.is_stalled(100.0)
    pace.begin(101.0)
    pace.end(0.001, False, failed=False)
    assert not pace.is_stalled(200.0)


class Slow:
    """Commits that take their time, and refuse nobody."""

    def __init__(self, *, is_remote):
        self.is_remote = is_remote

    def wait_for_lock(self, milliseconds):
        pass

    async def commit(self, takes, ends):
        if self.is_remote:
            await asyncio.sleep(0.01)
        else:
            time.sleep(0.01)

    def close(self):
        pass


@pytest.mark.pure
@pytest.mark.parametrize(("is_remote", "is_more"), [(True, True), (False, False)])
def test_only_where_commits_wait_for_a_server_does_more_wait_for_slow_ones(run, is_remote, is_more):
    async def main():
        loop = asyncio.get_running_loop()
        slow = Slow(is_remote=is_remote)
        journal = Journal(lambda: slow, loop, Deadlines(loop), timeout_seconds=60, is_remote=is_remote)
        journal.open()
        for _ in range(5):
            journal.take(bytes(32), 1, "/x", "r", NO_POLICY)
            await until(lambda: not journal.pending)
        assert (journal.full_at() > FULL_AT) == is_more
        await journal.aclose()

    run(main())


@pytest.mark.pure
def test_where_the_loop_is_busy_all_the_while_the_journal_does_not_take_its_time_for_the_servers(run, monkeypatch):
    monkeypatch.setattr("gateway.credits.committer.count_rests", lambda: 0)

    async def main():
        loop = asyncio.get_running_loop()
        journal = Journal(lambda: Slow(is_remote=True), loop, Deadlines(loop), timeout_seconds=60, is_remote=True)
        journal.open()
        for _ in range(BUSY_COMMITS):
            journal.take(bytes(32), 1, "/x", "r", NO_POLICY)
            await until(lambda: not journal.pending)
        assert journal.full_at() == FULL_AT
        assert journal.full_at(of_newest=True) == FULL_AT // 2
        await journal.aclose()

    run(main())


def test_while_the_database_is_locked_the_journal_says_that_it_stands_still(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=10)
            journal = provider.journal
            with locked(ledger):
                hold = asyncio.ensure_future(provider.hold(secret.encode(), 1, "/x", "r"))
                await until(lambda: journal.is_stalled)
            await provider.release(await hold, "test")
            assert not journal.is_stalled

    run(main())
