"""Who is let in when, and who is refused, in a time of the test's own: crowds of all kinds before a process that does
CAPACITY calls a second."""

from __future__ import annotations

import heapq
from itertools import count

import pytest

from gateway.credits.pace import FULL_AT
from gateway.server.intake import (
    FIFO_SECONDS,
    PATIENCE_SECONDS,
    STAND_SECONDS,
    WAIT_MAX_SECONDS,
    WARY_SECONDS,
    WINDOW_SECONDS,
    Intake,
)

CAPACITY = 4_000
STEP = 1 / CAPACITY
NORMAL_SECONDS = 0.03
"""What a call takes with a queue as long as may be, in full steps; at the door it should wait for less than that."""


class Process:
    """A loop with a clock, and behind the door a journal that gets through one call in each STEP."""

    is_stalled = False
    full_at = FULL_AT
    is_paused = False

    def __init__(self):
        self.now = 0.0
        self.running = []
        self.waits = []
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
        if self.running and not self.is_paused:
            self.running.pop(0).on_done()
        self.call_later(STEP, self._work)


class Caller:
    """One request. `entered`, `refused`: when, after it came."""

    leaving = False

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
        self.process.waits.append(self.entered)
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


@pytest.mark.parametrize(("load", "seconds"), [(0.9, 0.1), (0.8, 0.2), (0.6, 0.25)])
def test_after_a_pause_at_an_ordinary_load_nobody_is_refused_and_the_queue_is_served_in_its_order(
    process, load, seconds
):
    callers = come(process, load * CAPACITY, 1)
    process.is_paused = True
    callers += come(process, load * CAPACITY, seconds)
    process.is_paused = False
    callers += come(process, load * CAPACITY, 4)
    assert not refused(callers)
    assert entered(callers)[-1] < seconds + 4 * (FIFO_SECONDS + WINDOW_SECONDS)


@pytest.mark.parametrize(("load", "size"), [(0.6, 1_000), (0.55, 1_500)])
def test_a_burst_on_top_of_an_ordinary_load_is_served_to_the_last(process, load, size):
    callers = come(process, load * CAPACITY, 1)
    callers += [Caller(process) for _ in range(size)]
    callers += come(process, load * CAPACITY, 4)
    assert not refused(callers)


def test_who_left_takes_no_room_and_a_defect_that_one_brings_to_light_stops_nobody_else(process):
    class Broken(Caller):
        has_gone = False

        def on_admitted(self):
            raise RuntimeError

        def abort(self):
            self.has_gone = True

    crowd = [Caller(process) for _ in range(FULL_AT)]
    gone = [Caller(process) for _ in range(100)]
    for caller in gone:
        caller.leaving = True
    broken = [Broken(process) for _ in range(5)]
    crowd += [Caller(process) for _ in range(100)]
    process.run(1)
    assert len(entered(crowd)) == FULL_AT + 100
    assert not entered(gone)
    assert all(caller.has_gone for caller in broken)
    assert process.door.admits()


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


@pytest.mark.parametrize("times", [1.2, 3, 6])
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
    assert told[int(0.99 * len(told))] < STAND_SECONDS + 2 * PATIENCE_SECONDS


def test_after_an_overload_nobody_is_served_late_and_who_comes_then_is_served_at_once(process):
    callers = come(process, 3 * CAPACITY, 2)
    since = len(entered(callers))
    process.run(1)
    assert len(entered(callers)) - since < CAPACITY * 2 * PATIENCE_SECONDS
    assert not process.door.is_overloaded
    assert entered(come(process, CAPACITY * 0.9, 1))[-1] == 0


def test_soon_after_an_overload_a_queue_is_not_taken_for_a_burst_and_later_it_is(process):
    come(process, 3 * CAPACITY, 1)
    process.run(1)
    callers = [Caller(process) for _ in range(1_000)]
    process.run(1)
    assert refused(callers)
    assert entered(callers)[-1] < PATIENCE_SECONDS + 2 * WINDOW_SECONDS
    process.run(WARY_SECONDS)
    callers = [Caller(process) for _ in range(1_000)]
    process.run(1)
    assert not refused(callers)


def test_who_has_waited_for_too_long_is_not_served_though_there_is_room_before_it_is_told(process, monkeypatch):
    monkeypatch.setattr("gateway.server.intake.REFUSALS_PER_LOOK", 2)
    come(process, 4 * CAPACITY, 2)
    assert process.door.waiting > CAPACITY
    process.waits.clear()
    process.run(1)
    assert process.door.waiting
    assert max(process.waits, default=0) <= PATIENCE_SECONDS


def test_where_as_many_run_as_may_the_others_are_told_soon(process):
    process.is_paused = True
    process.door = Intake(process, 10, lambda: len(process.running), clock=lambda: process.now)
    callers = come(process, 1_000, 1)
    process.run(PATIENCE_SECONDS + STEP)
    assert len(entered(callers)) == 10
    assert len(refused(callers)) == len(callers) - 10
    assert refused(callers)[-1] < PATIENCE_SECONDS + 0.01


@pytest.mark.parametrize("load", [0, 0.4, 0.8])
def test_nobody_waits_for_longer_than_may_be_however_large_the_crowd_and_fast_the_process(process, load):
    callers = [Caller(process) for _ in range(3 * CAPACITY)]
    callers += come(process, CAPACITY * load, 6)
    process.run(1)
    assert len(entered(callers)) + len(refused(callers)) == len(callers)
    assert max(*entered(callers), *refused(callers)) < WAIT_MAX_SECONDS + NORMAL_SECONDS


def test_nobody_waits_without_end_for_a_process_that_stands_still(process):
    process.is_paused = True
    callers = come(process, 1_000, 3)
    process.run(STAND_SECONDS)
    assert len(refused(callers)) == len(callers) - FULL_AT
    assert refused(callers)[-1] < 2 * STAND_SECONDS
