"""The breaker: nobody waits for an Unkey that is known to be down, and nothing is kept waiting once it is back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credits.unkey.breaker import FAILING_SECONDS, FAILURES_MAX, Breaker
from gateway.credits.unkey.errors import UnkeyUnavailable


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def breaker(clock, changes):
    breaker = Breaker(clock, on_change=lambda: changes.append((breaker.is_open, breaker.cause)))
    return breaker


def test_it_opens_after_so_many_failures_in_a_row(breaker, changes):
    for _ in range(FAILURES_MAX - 1):
        breaker.failed("reset")
        breaker.admit()
    assert changes == []
    breaker.failed("late")
    assert breaker.is_open
    assert changes == [(True, "late")]


def test_a_success_in_between_begins_the_count_anew(breaker, clock):
    for _ in range(5):
        for _ in range(FAILURES_MAX - 1):
            breaker.failed("reset")
        breaker.succeeded()
        clock.now += 10
    assert not breaker.is_open
    breaker.admit()


def test_it_opens_when_failures_go_on_for_too_long(breaker, clock):
    breaker.failed("late")
    clock.now += FAILING_SECONDS
    breaker.failed("late")
    assert not breaker.is_open
    clock.now += 0.01
    breaker.failed("late")
    assert breaker.is_open


def test_a_success_in_between_begins_the_time_anew(breaker, clock):
    breaker.failed("late")
    clock.now += FAILING_SECONDS
    breaker.succeeded()
    clock.now += FAILING_SECONDS
    breaker.failed("late")
    assert not breaker.is_open


def test_an_open_one_refuses_at_once_and_says_that_nothing_was_executed(breaker):
    for _ in range(FAILURES_MAX):
        breaker.failed("connection refused")
    with pytest.raises(UnkeyUnavailable) as caught:
        breaker.admit()
    assert caught.value.possibly_executed is False
    assert (b"retry-after", b"1") in caught.value.headers
    assert "connection refused" in caught.value.cause
    assert "connection refused" not in caught.value.detail


def test_it_stays_open_until_something_succeeds(breaker, clock, changes):
    for _ in range(FAILURES_MAX + 3):
        breaker.failed("late")
    clock.now += 1_000_000
    assert breaker.is_open
    breaker.succeeded()
    breaker.succeeded()
    assert not breaker.is_open
    breaker.admit()
    assert changes == [(True, "late"), (False, "")]


@given(st.lists(st.one_of(st.just("success"), st.floats(0, 0.5))))
def test_it_is_open_exactly_while_what_came_last_is_many_or_lasting_failures(events):
    """Against the rule itself, told over the whole story."""
    clock = Clock()
    changes = []
    breaker = Breaker(clock, on_change=lambda: changes.append(breaker.is_open))
    failures: list[float] = []
    was_open = False
    for event in events:
        if event == "success":
            failures = []
            breaker.succeeded()
        else:
            clock.now += event
            failures.append(clock.now)
            breaker.failed("late")
        is_open = len(failures) >= FAILURES_MAX or (bool(failures) and failures[-1] - failures[0] > FAILING_SECONDS)
        assert breaker.is_open == is_open
        if is_open != was_open:
            assert changes.pop(0) == is_open
        was_open = is_open
    assert changes == []
