"""How many changes may wait for their commits, by how long those take."""

from __future__ import annotations

import pytest

from gateway.credits.pace import FULL_AT, FULL_AT_MOST, STALL_SECONDS, Pace


def pace_of(seconds, commits=100):
    pace = Pace()
    for _ in range(commits):
        pace.begin(1.0)
        pace.end(seconds, failed=False)
    return pace


@pytest.mark.parametrize("seconds", [0, 0.0002, 0.001])
def test_where_commits_are_quick_two_batches_wait(seconds):
    assert pace_of(seconds).full_at == FULL_AT


@pytest.mark.parametrize("seconds", [0.002, 0.01, 0.02])
def test_where_commits_are_slow_so_many_wait_that_calls_are_begun_as_fast(seconds):
    assert pace_of(seconds).full_at / seconds == pytest.approx(FULL_AT / 0.001, rel=0.05)


def test_there_is_a_bound_however_slow_they_are():
    assert pace_of(10).full_at == FULL_AT_MOST


def test_one_slow_commit_changes_little():
    pace = pace_of(0.001)
    pace.end(0.003, failed=False)
    assert pace.full_at < 1.5 * FULL_AT


def test_a_commit_that_fails_or_does_not_end_is_a_stall_until_one_succeeds():
    pace = Pace()
    assert not pace.is_stalled(100.0)
    pace.begin(100.0)
    assert not pace.is_stalled(100.0 + STALL_SECONDS)
    assert pace.is_stalled(100.1 + STALL_SECONDS)
    pace.end(STALL_SECONDS, failed=True)
    assert pace.is_stalled(100.0)
    pace.begin(101.0)
    pace.end(0.001, failed=False)
    assert not pace.is_stalled(200.0)
