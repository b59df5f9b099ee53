"""Who is let in when, and who is refused, in a time of the test's own: crowds of all kinds before a process that does
CAPACITY calls a second."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count

import pytest

from gateway.credits.pace import FULL_AT, FULL_AT_SERVER, QUICK_SECONDS, Pace
from gateway.server.intake import (
    ALLOWANCE_MAX_SECONDS,
    CROWD_SECONDS,
    LOOK_SECONDS,
    PATIENCE_SECONDS,
    REFUSAL_SHARE,
    REFUSALS_PER_LOOK,
    STAND_SECONDS,
    WAIT_MAX_SECONDS,
    WARY_SECONDS,
    WARY_STAND_SECONDS,
    WINDOW_SECONDS,
    Intake,
)

CAPACITY = 4_000
STEP = 1 / CAPACITY
STEP_QUICK = 1 / 10_000
NORMAL_SECONDS = 0.03
"""What a call takes with a queue as long as may be, in full steps; at the door it should wait for less than that."""
SOON_SECONDS = 0.004
"""At the door. With that, a call takes twice as long as one without overload."""
REFUSAL_SECONDS = 0.00001
"""What it takes to refuse one, where it is not for nothing: half as many can be refused as are served, or so."""
ASK_AGAIN_SECONDS = 0.0002


class Process:
    """A loop with a clock, and behind the door a journal that commits what has gathered in one batch, for as long as
    that takes: a step for each call, or `server_seconds` if that is longer. Meanwhile the next batch gathers.
    `never_rests`: it has other things to do while it waits for the server."""

    is_stalled = False
    is_paused = False
    server_seconds = 0.0
    never_rests = False
    step = STEP
    seconds_per_refusal = 0.0

    def __init__(self):
        self.now = self.refusals_seconds = 0.0
        self.running = []
        self.gathered = []
        self.committing = []
        self.waits = []
        self.begun = 0
        self._is_planned = False
        self._order = count()
        self._plans = []
        self._pace = Pace()
        self.full_at = self._pace.full_at
        self.door = Intake(self, 100_000, lambda: len(self.running), clock=lambda: self.now)
        self.door.backlog = self

    @property
    def pending(self):
        return len(self.gathered) + len(self.committing)

    def call_soon(self, act):
        self.call_later(0, act)

    def call_later(self, delay, act):
        heapq.heappush(self._plans, (self.now + delay, next(self._order), act))

    def run(self, seconds):
        self.run_until(self.now + seconds)

    def run_until(self, until):
        while self._plans and self._plans[0][0] <= until:
            self.do_next()
        self.now = max(self.now, until)

    def do_next(self):
        at, _, act = heapq.heappop(self._plans)
        self.now = max(self.now, at)
        act()

    def begin(self, caller):
        self.running.append(caller)
        self.begun += 1
        self.call_soon(lambda: self._take(caller))

    def _take(self, caller):
        self.begun -= 1
        self.gathered.append(caller)
        self._plan_commit()

    def refuse(self):
        self.refusals_seconds += self.seconds_per_refusal
        self.now += self.seconds_per_refusal

    def _plan_commit(self):
        if not self._is_planned and not self.committing:
            self._is_planned = True
            self.call_soon(self._commit)

    def _commit(self):
        self._is_planned = False
        self.committing, self.gathered = self.gathered, []
        self.call_later(self._commit_seconds, self._commit_done)

    @property
    def _commit_seconds(self):
        return max(len(self.committing) * self.step, self.server_seconds)

    def _commit_done(self):
        if self.is_paused:
            self.call_later(self.step, self._commit_done)
            return
        if self.server_seconds:
            seconds = self._commit_seconds
            self._pace.end(seconds, self.never_rests or seconds > self.server_seconds, failed=False)
        done, self.committing = self.committing, []
        self.running = [caller for caller in self.running if caller not in done]
        self.door.on_room()
        for caller in done:
            caller.on_done()
        if self.gathered:
            self._plan_commit()


class Caller:
    """One request. `entered`, `refused`: when, after it came. `others`: how many were in the journal by then.
    `begun_with`: how many began in one turn with it, itself included, by then."""

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
        self.others = self.process.pending + self.process.begun
        self.begun_with = self.process.begun + 1
        self.process.waits.append(self.entered)
        self.process.begin(self)

    def on_turned_away(self):
        self.process.refuse()
        self.refused = self.process.now - self.came
        self.on_done()

    def on_done(self):
        if self._then is not None:
            self.process.call_later(ASK_AGAIN_SECONDS, self._then)


@pytest.fixture
def process(monkeypatch):
    process = Process()
    # What else a turn takes is this machine's time.
    monkeypatch.setattr("gateway.server.intake.time.thread_time", lambda: process.refusals_seconds)
    return process


def come(process, rate, seconds):
    """Callers at a steady rate, whatever becomes of them; all of them, when the time is over."""
    callers, began = [], process.now
    for n in range(int(rate * seconds)):
        callers.append(Caller(process))
        process.run_until(began + (n + 1) / rate)
    return callers


def crowd_of(process, size):
    """All at once."""
    return [Caller(process) for _ in range(size)]


def come_over(process, connections, rate, seconds):
    """The same over so many connections, each of which asks for one thing at a time: what becomes due while there is
    none, comes when one has its answer."""
    callers, began = [], process.now
    free, due = connections, 0

    def send():
        nonlocal free
        while free and len(callers) < due:
            free -= 1
            callers.append(Caller(process, answered))

    def answered():
        nonlocal free
        free += 1
        if process.now < began + seconds:
            send()

    for n in range(int(rate * seconds)):
        due += 1
        send()
        process.run_until(began + (n + 1) / rate)
    return callers


def ask_on_and_on(process, connections, seconds, meanwhile=lambda: None):
    """Callers who ask again as soon as they were answered."""
    callers = []

    def ask():
        if process.now < seconds:
            callers.append(Caller(process, ask))

    for _ in range(connections):
        ask()
    meanwhile()
    process.run_until(seconds)
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


@pytest.mark.parametrize(("load", "seconds"), [(0.9, 0.04), (0.6, 0.04), (0.9, 0.1), (0.8, 0.2), (0.6, 0.25)])
def test_after_a_pause_at_an_ordinary_load_nobody_is_refused_and_the_queue_is_served_in_its_order(
    process, load, seconds
):
    callers = come(process, load * CAPACITY, 1)
    process.is_paused = True
    callers += come(process, load * CAPACITY, seconds)
    process.is_paused = False
    callers += come(process, load * CAPACITY, 4)
    assert not refused(callers)
    assert entered(callers)[-1] < seconds + 0.25


@pytest.mark.parametrize(("load", "size"), [(0.6, 1_000), (0.55, 1_500)])
def test_a_burst_on_top_of_an_ordinary_load_is_served_to_the_last(process, load, size):
    callers = come(process, load * CAPACITY, 1)
    callers += [Caller(process) for _ in range(size)]
    callers += come(process, load * CAPACITY, 4)
    assert not refused(callers)


def test_who_waits_is_let_in_as_soon_as_the_journal_has_room(process, monkeypatch):
    monkeypatch.setattr("gateway.server.intake.LOOK_SECONDS", 100)
    callers = [Caller(process) for _ in range(1_000)]
    process.run(1_000 / CAPACITY + NORMAL_SECONDS)
    assert len(entered(callers)) == 1_000


def test_not_all_of_those_there_is_room_for_begin_together(process):
    process.is_paused = True
    crowd = [Caller(process) for _ in range(10 * FULL_AT)]
    process.run(5.5 * LOOK_SECONDS)
    process.committing.clear()
    process.door.on_room()
    process.run(0)
    assert len(entered(crowd)) == FULL_AT + FULL_AT * 3 // 4
    process.run(LOOK_SECONDS)
    assert len(entered(crowd)) == 2 * FULL_AT


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


def test_a_short_queue_is_served_in_its_order_whatever_was_before(process):
    come(process, 3 * CAPACITY, 0.3)
    process.run(1)
    callers = [Caller(process) for _ in range(2 * FULL_AT + 20)]
    process.run(1)
    waits = [caller.entered for caller in callers]
    assert waits == sorted(waits)


@pytest.mark.parametrize("connections", [FULL_AT, 72, 150, 200, 300])
def test_callers_who_ask_again_at_once_are_all_served_in_turn_while_they_are_not_very_many(process, connections):
    callers = ask_on_and_on(process, connections, 5)
    assert not refused(callers)
    assert len(callers) > 0.97 * 5 * CAPACITY
    waits = entered([caller for caller in callers if caller.came > 0.5])
    assert waits[-1] < CROWD_SECONDS
    assert waits[-1] - waits[0] < 2 * FULL_AT * STEP


@pytest.mark.parametrize("times", [1.2, 3, 6])
def test_under_overload_who_is_served_is_served_soon_and_the_rest_is_told(process, times):
    callers = come(process, times * CAPACITY, 10)
    served, told = entered(callers), refused(callers)
    assert len(served) > 0.99 * 10 * CAPACITY
    assert served[int(0.98 * len(served))] < NORMAL_SECONDS
    assert served[-1] < WINDOW_SECONDS + NORMAL_SECONDS
    assert told[len(told) // 2] < 2 * PATIENCE_SECONDS
    assert told[-1] < STAND_SECONDS + 4 * PATIENCE_SECONDS
    process.run(2 * PATIENCE_SECONDS + NORMAL_SECONDS)
    assert len(entered(callers)) + len(refused(callers)) == len(callers)


@pytest.mark.parametrize(("callers", "share"), [(come, 1 / 2), (lambda process, *_: crowd_of(process, 5_000), 1)])
def test_the_newest_are_let_in_half_as_many_at_a_time_and_a_crowd_in_its_order_as_ever(process, callers, share):
    found = callers(process, 3 * CAPACITY, 1)
    process.run_until(1)
    late = [caller for caller in found if caller.entered is not None and caller.came + caller.entered > 0.1]
    assert len(late) > 0.85 * CAPACITY
    assert max(caller.others for caller in late) == FULL_AT * share - 1
    assert max(caller.begun_with for caller in late) == FULL_AT * share * 3 // 4


def test_where_a_server_sets_the_rate_as_many_of_the_newest_are_let_in_as_of_others(process):
    process.server_seconds, process.step = 0.005, 1 / 20_000
    at_once = FULL_AT_SERVER * process.server_seconds / QUICK_SECONDS / 2
    capacity = at_once / process.server_seconds
    come(process, capacity / 4, 1)
    callers = come(process, 1.2 * capacity, 4)
    assert len(entered(callers)) > 0.95 * 4 * capacity
    assert refused(callers)[len(refused(callers)) // 2] < 3 * PATIENCE_SECONDS


def test_where_a_server_could_do_more_half_as_many_of_the_newest_are_let_in(process):
    process.server_seconds = 4 * STEP
    come(process, CAPACITY / 8, 1)
    assert process.full_at() == FULL_AT_SERVER
    process.never_rests = True
    callers = come(process, 3 * CAPACITY, 2)
    late = [caller.others for caller in callers if caller.entered is not None and caller.came > 2]
    assert len(late) > 0.9 * CAPACITY
    assert sorted(late)[len(late) * 9 // 10] <= FULL_AT_SERVER // 2


@pytest.mark.parametrize(("load", "seconds"), [(3, 1), (3, 0.013), (2, 0.02)])
def test_when_nobody_waits_any_more_as_many_begin_at_once_as_ever(process, load, seconds):
    come(process, load * CAPACITY, seconds)
    process.run(1)
    assert sum(caller.entered == 0 for caller in crowd_of(process, 1_000)) == FULL_AT


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


@pytest.mark.parametrize("connections", [100, 150, 200, 250])
def test_an_overload_ends_with_those_who_brought_it_though_others_ask_again_at_once(process, connections):
    process.seconds_per_refusal = REFUSAL_SECONDS
    callers = ask_on_and_on(process, connections, 10, lambda: come(process, 3 * CAPACITY, 1))
    assert refused(callers)
    assert not refused([caller for caller in callers if caller.came > 2])
    assert not process.door.is_overloaded


def test_soon_after_an_overload_a_queue_is_not_taken_for_a_burst_and_later_it_is(process):
    come(process, 3 * CAPACITY, 1)
    process.run(1)
    callers = [Caller(process) for _ in range(1_000)]
    process.run(1)
    assert refused(callers)
    assert entered(callers)[-1] < WARY_STAND_SECONDS + 2 * WINDOW_SECONDS
    process.run(WARY_SECONDS)
    callers = [Caller(process) for _ in range(1_000)]
    process.run(1)
    assert not refused(callers)


@pytest.fixture
def flooded(process):
    """A process as quick as ours, to which callers on 2,000 connections came for ten seconds, three times as many as
    it can serve."""
    process.step = STEP_QUICK
    process.seconds_per_refusal = REFUSAL_SECONDS
    process.callers = come_over(process, 2_000, 3 / STEP_QUICK, 10)
    return process


def test_under_overload_next_to_nobody_is_served_late_neither_at_its_beginning_nor_at_its_end(flooded):
    flooded.run(1)
    served = entered(flooded.callers)
    assert len(served) > 0.99 * 10 / STEP_QUICK
    assert sum(seconds > SOON_SECONDS for seconds in served) < 0.004 * len(served)


def test_who_had_waited_for_too_long_when_an_overload_ended_is_refused_soon_and_not_served_late(flooded):
    waiting = [caller for caller in flooded.callers if caller.entered is caller.refused is None]
    assert len(waiting) > 1_500
    ended = flooded.now
    old = [caller for caller in waiting if caller.came < ended - PATIENCE_SECONDS]
    assert len(old) > 1_000
    flooded.run(0.1)
    assert len(refused(old)) == len(old)
    assert len(refused(waiting)) + len(entered(waiting)) == len(waiting)
    assert max(entered(waiting)) < PATIENCE_SECONDS
    assert not flooded.door.is_overloaded


def test_refusals_take_their_share_of_the_time_evenly_while_others_wait_and_all_that_they_need_when_nobody_does(
    flooded,
):
    told = sorted(caller.came + caller.refused for caller in flooded.callers if caller.refused is not None)
    told = [at for at in told if 1 < at < 9]
    assert len(told) * REFUSAL_SECONDS == pytest.approx(8 * REFUSAL_SHARE, rel=0.03)
    per_look = Counter(int(at / LOOK_SECONDS) for at in told)
    assert max(per_look.values()) < 3 * LOOK_SECONDS * REFUSAL_SHARE / REFUSAL_SECONDS


def test_time_that_was_not_needed_for_refusals_is_not_made_up_for(flooded):
    told = sorted(caller.came + caller.refused for caller in flooded.callers if caller.refused is not None)
    began = [at for at in told if at < told[0] + 0.05]
    assert len(began) * REFUSAL_SECONDS < ALLOWANCE_MAX_SECONDS + 0.06 * REFUSAL_SHARE


def test_refusals_in_time_that_was_free_are_not_paid_for_later(flooded):
    flooded.run(0.05)
    assert flooded.door.waiting == 0
    callers = come_over(flooded, 2_000, 3 / STEP_QUICK, 0.4)
    assert len(refused(callers)) * REFUSAL_SECONDS > 0.25 * REFUSAL_SHARE


def test_however_many_are_refused_a_turn_of_the_loop_stays_short(flooded):
    spent = []
    while flooded.door.waiting:
        before = flooded.refusals_seconds
        flooded.do_next()
        spent.append(flooded.refusals_seconds - before)
    assert max(spent) == pytest.approx(REFUSALS_PER_LOOK * REFUSAL_SECONDS)


def test_an_overload_is_met_as_quickly_when_a_crowd_was_there_before(process):
    process.step = STEP_QUICK
    for _ in range(2_000):
        Caller(process)
    process.run(0.5)
    served = entered(come_over(process, 2_000, 3 / STEP_QUICK, 0.1))
    assert sum(seconds > SOON_SECONDS for seconds in served) < WINDOW_SECONDS / STEP_QUICK


def test_who_comes_when_an_overload_has_ended_is_served_at_once(flooded):
    callers = come(flooded, 0.8 / STEP_QUICK, 0.2)
    assert not refused(callers)
    assert entered(callers)[-1] < SOON_SECONDS
    assert flooded.door.waiting == 0


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
