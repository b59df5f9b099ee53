"""Who is let in when, and who is refused, in a time of the test's own: crowds of all kinds before a process that does
CAPACITY calls a second."""

from __future__ import annotations

import heapq
from itertools import count

import pytest

from gateway.server.intake import (
    FIFO_SECONDS,
    LOOK_SECONDS,
    PATIENCE_SECONDS,
    REFUSALS_PER_LOOK,
    STAND_SECONDS,
    WAIT_MAX_SECONDS,
    Intake,
)

CAPACITY = 4_000
STEP = 1 / CAPACITY
NORMAL_SECONDS = 0.03
"""What a call takes with a queue as long as may be, in full steps; at the door it should wait for less than that."""


class Process:
    """A loop with a clock, and behind the door a journal that gets through one call in each STEP."""

    is_stalled = False

    def __init__(self):
        self.now = 0.0
        self.running = []
        self._order = count()
        self._plans = []
        self.door = Intake(self, 100_000, lambda: len(self.running), clock=lambda: self.now)
        self.door.backlog = self
        self.call_later(STEP, self._work)

    @property
    def pending(self):
        return len(self.running)

    def call_soon(self, act):
        self.call_later(0, act)

    def call_later(self, delay, act):
        heapq.heappush(self._plans, (self.now + delay, next(self._order), act))

    def run(self, seconds):
        until = self.now + seconds
        while self._plans and self._plans[0][0] <= until:
            self.now, _, act = heapq.heappop(self._plans)
            act()
        self.now = until

    def _work(self):
        if self.running:
            self.running.pop(0).on_done()
        self.call_later(STEP, self._work)


class Caller:
    """One request. `entered`, `refused`: when, after it came."""

    def __init__(self, process, then=None):
        self.process = process
        self.came = process.now
        self.entered = self.refused = None
        self._then = then
        if process.door.admits():
            self.on_admitted()
        else:
            process.door.hold(self)

    def on_admitted(self):
        self.entered = self.process.now - self.came
        self.process.running.append(self)

    def on_turned_away(self):
        self.refused = self.process.now - self.came
        self.on_done()

    def on_done(self):
        if self._then is not None:
            self._then()


@pytest.fixture
def process(monkeypatch):
    monkeypatch.setattr(
        "gateway.server.intake.time.thread_time", lambda: 0.0
    )  # what refusals cost is this machine's time
    return Process()


def come(process, rate, seconds):
    """Callers at a steady rate, whatever becomes of them; all of them, when the time is over."""
    callers = []
    for _ in range(int(rate * seconds)):
        callers.append(Caller(process))
        process.run(1 / rate)
    return callers


def ask_on_and_on(process, connections, seconds):
    """Callers who ask again as soon as they were answered."""
    callers = []

    def ask():
        if process.now < seconds:
            callers.append(Caller(process, ask))

    for _ in range(connections):
        ask()
    process.run(seconds)
    return callers


def entered(callers):
    return sorted(caller.entered for caller in callers if caller.entered is not None)


def refused(callers):
    return sorted(caller.refused for caller in callers if caller.refused is not None)


def test_with_room_nobody_waits(process):
    assert entered(come(process, CAPACITY * 0.9, 1)) == [0] * int(CAPACITY * 0.9)


@pytest.mark.parametrize("size", [100, 1_000, 5_000])
def test_a_burst_is_served_to_the_last(process, size):
    callers = [Caller(process) for _ in range(size)]
    process.run(size / CAPACITY + 0.1)
    assert len(entered(callers)) == size
    assert entered(callers)[-1] == pytest.approx(size / CAPACITY, abs=NORMAL_SECONDS)


def test_a_burst_that_comes_in_the_time_of_a_breath_is_served_to_the_last(process):
    callers = come(process, 5 * CAPACITY, STAND_SECONDS / 2)
    process.run(2)
    assert not refused(callers)
    assert len(entered(callers)) == len(callers)


def test_a_short_queue_is_served_in_its_order(process):
    callers = [Caller(process) for _ in range(int(CAPACITY * FIFO_SECONDS))]
    process.run(1)
    waits = [caller.entered for caller in callers]
    assert waits == sorted(waits)


def test_callers_who_ask_again_at_once_are_all_served_in_turn_while_none_waits_long(process):
    callers = ask_on_and_on(process, int(CAPACITY * FIFO_SECONDS), 5)
    assert not refused(callers)
    assert entered(callers)[-1] < FIFO_SECONDS
    assert len(callers) > 0.99 * 5 * CAPACITY


@pytest.mark.parametrize("times", [1.2, 3, 10])
def test_under_overload_who_is_served_is_served_soon_and_the_rest_is_told(process, times):
    callers = come(process, times * CAPACITY, 10)
    served, told = entered(callers), refused(callers)
    assert len(served) > 0.99 * 10 * CAPACITY
    assert served[int(0.98 * len(served))] < NORMAL_SECONDS
    assert served[-1] < FIFO_SECONDS + NORMAL_SECONDS
    assert told[len(told) // 2] < 2 * PATIENCE_SECONDS
    assert told[-1] < STAND_SECONDS + 4 * PATIENCE_SECONDS
    process.run(2 * PATIENCE_SECONDS)
    assert len(entered(callers)) + len(refused(callers)) == len(callers)


def test_a_door_at_which_every_connection_waits_is_an_overload_too(process):
    callers = ask_on_and_on(process, CAPACITY, 10)
    served, told = entered(callers), refused(callers)
    assert len(served) > 0.99 * 10 * CAPACITY
    assert served[int(0.99 * len(served))] < NORMAL_SECONDS
    assert told[int(0.99 * len(told))] < STAND_SECONDS


def test_after_an_overload_nobody_is_served_late_and_who_comes_then_is_served_at_once(process):
    callers = come(process, 3 * CAPACITY, 2)
    since = len(entered(callers))
    process.run(1)
    assert len(entered(callers)) - since < CAPACITY * 2 * PATIENCE_SECONDS
    assert not process.door.is_overloaded
    assert entered(come(process, CAPACITY * 0.9, 1))[-1] == 0


def test_no_wait_is_without_end(process):
    """A queue that goes away too fast to be an overload, and takes long to get to its oldest."""
    first = [Caller(process) for _ in range(4 * CAPACITY)]
    come(process, CAPACITY * 0.4, 6)
    served, told = entered(first), refused(first)
    assert len(served) + len(told) == len(first)
    assert told[0] >= WAIT_MAX_SECONDS
    assert max(served[-1], told[-1]) < WAIT_MAX_SECONDS + 2 * LOOK_SECONDS * len(told) / REFUSALS_PER_LOOK
