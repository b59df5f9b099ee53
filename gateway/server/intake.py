"""Whether a request may begin, or the process has more to do than it can.

Under overload every call that is let in makes all others later, until none is in time. So calls are let in only as
fast as they are done with, and the rest is told 503 before anything is spent on it.

*When?* A number of calls says nothing: a thousand that wait for their upstream are no work, a hundred that don't are.
What tells is delay that stays (CoDel's insight, RFC 8289): how long a turn of the event loop lasts, and how long those
wait who wait for the journal. A burst is over within STRAIN_SECONDS; a queue that is still there by then stands.

*How many, then?* As many as keep the journal and the loop busy: AHEAD_MAX that have begun and are not yet through the
journal. So the rate is the process's best whatever that is, and nothing has to be tuned.

*At what cost?* Refusals get REFUSAL_SHARE of the time, oldest first and none before PATIENCE_SECONDS; the others wait,
and the newest of them is let in when there is room again (the oldest has waited too long to be served in time). Each
connection waits with one request only, so callers who ask again at once can't have more of the process than that.

A turn is measured by a callback that comes up in the next one, once in PROBE_SECONDS while requests come. Nothing here
keeps the loop from resting: the thread that commits needs the processor too.
"""

from __future__ import annotations

import re
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

    from gateway.server.protocol import HttpProtocol

PROBE_SECONDS = 0.01
TURN_LONG_SECONDS = 0.01
"""A turn of the event loop longer than this is a strain; a call takes some ten of them."""
WAIT_LONG_SECONDS = 0.02
"""The same for the wait for the journal; with 32 callers at full speed it is 2 ms."""
STRAIN_SECONDS = 0.1
"""So long without a moment of ease is an overload; so long without a refusal is its end."""
AHEAD_MAX = 48
"""Under overload, calls begun in this turn and changes that wait for the journal: two batches of a good size."""
REFUSAL_SHARE = 0.15
"""Of the process's time, at most, for telling callers that there is no room."""
ALLOWANCE_MAX_SECONDS = 0.002
LENGTH = re.compile(rb"(?<=\r\n)content-length: ?([0-9]{1,9})\r\n")
PATIENCE_SECONDS = 0.05
"""How long a request waits for room before it is refused: what comes at the same moment is not yet too much."""
LOOK_SECONDS = 0.001
REFUSALS_PER_LOOK = 16
"""So many at a time: the turn of the loop must stay short."""


class Backlog(Protocol):
    """What calls wait for inside the process: the journal."""

    @property
    def pending(self) -> int:
        """How many wait."""

    @property
    def waited_seconds(self) -> float:
        """How long the oldest of the last to get through had waited."""


class NoBacklog:
    """Nothing waits."""

    pending = 0
    waited_seconds = 0.0


class Intake:
    """Decides over the requests of one listener. `calls_max` bounds those that run, overload or not."""

    def __init__(self, loop: asyncio.AbstractEventLoop, calls_max: int, count_running: Callable[[], int]) -> None:
        self.backlog: Backlog = NoBacklog()
        self.is_overloaded = False
        self._loop = loop
        self._calls_max = calls_max
        self._count_running = count_running
        self._probe_at = 0.0
        self._turn_began = 0.0
        self._begun = 0
        self._strained_since = 0.0
        self._refused_at = 0.0
        self._allowance_seconds = 0.0
        self._refilled_at = 0.0
        self._held: deque[tuple[float, HttpProtocol]] = deque()

    def admits(self) -> bool:
        """Whether one more request may begin. On the hot path."""
        if self._held or self._count_running() >= self._calls_max:
            return False
        now = self._loop.time()
        if self.is_overloaded:
            return self._admits_under_overload(now)
        if now >= self._probe_at:
            self._probe_at = now + PROBE_SECONDS
            self._loop.call_soon(self._begin_turn)
        return True

    def hold(self, caller: HttpProtocol) -> None:
        """Whose request was not admitted: it is when there is room, or it is told when there is time for that."""
        self._held.append((time.monotonic(), caller))
        if len(self._held) == 1:
            self._loop.call_soon(self._look_at_held)

    # --- is there an overload? --------------------------------------------------------------------------------------

    def _begin_turn(self) -> None:
        # From here on: what is left of the turn in which this was asked for is not a whole one.
        self._turn_began = time.monotonic()
        self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        now = time.monotonic()
        backlog = self.backlog
        has_long_turns = now - self._turn_began > TURN_LONG_SECONDS
        if not has_long_turns and not (backlog.pending and backlog.waited_seconds > WAIT_LONG_SECONDS):
            self._strained_since = 0.0
        elif not self._strained_since:
            self._strained_since = now
        elif now - self._strained_since >= STRAIN_SECONDS:
            self._strained_since = 0.0
            self._refused_at = self._loop.time()
            self.is_overloaded = True

    # --- under overload ---------------------------------------------------------------------------------------------

    def _admits_under_overload(self, now: float) -> bool:
        if not self._has_room():
            self._refused_at = now
            return False
        if now - self._refused_at > STRAIN_SECONDS:
            self.is_overloaded = False
        return True

    def _has_room(self) -> bool:
        """For one more, which is counted."""
        if self._begun + self.backlog.pending >= AHEAD_MAX:
            return False
        if not self._begun:
            self._loop.call_soon(self._begin_anew)
        self._begun += 1
        return True

    def _begin_anew(self) -> None:
        """Those who began in the last turn wait for the journal by now, and count there."""
        self._begun = 0

    def _look_at_held(self) -> None:
        """Let in the newest as far as there is room, and refuse the oldest for as long as refusals may take."""
        held = self._held
        while held and self._count_running() < self._calls_max and self._has_room():
            held.pop()[1].on_admitted()
        self._refuse_held()
        if held:
            self._loop.call_later(LOOK_SECONDS, self._look_at_held)

    def _refuse_held(self) -> None:
        now, began = time.monotonic(), time.thread_time()
        allowance = self._allowance_seconds + (now - self._refilled_at) * REFUSAL_SHARE
        held, self._refilled_at = self._held, now
        if allowance > 0:
            for _ in range(min(REFUSALS_PER_LOOK, len(held))):
                if held[0][0] > now - PATIENCE_SECONDS:
                    break
                self._refused_at = self._loop.time()
                held.popleft()[1].on_turned_away()
            allowance = min(allowance, ALLOWANCE_MAX_SECONDS) - (time.thread_time() - began)
        self._allowance_seconds = allowance


def is_plain(data: bytes, end: int, always: Collection[bytes]) -> bool:
    """Whether this is, at a glance, a whole request that may be refused unread, its head ending at `end`: on HTTP/1.1,
    of certain length, with nothing behind it, not to be closed after, and not for a path that is always answered."""
    words = data[:end].split(b" ", 2)
    if len(words) < 3:
        return False
    method, target, _ = words
    lower = data[:end].lower() + b"\r\n"
    body_bytes = len(data) - end - 4
    lengths = LENGTH.findall(lower)
    return (
        len(lengths) == lower.count(b"content-length")
        and (not body_bytes if not lengths else len(lengths) == 1 and int(lengths[0]) == body_bytes)
        and target.partition(b"?")[0] not in always
        and method != b"HEAD"
        and b" http/1.1\r\n" in lower
        and b"transfer-encoding" not in lower
        and b"close" not in lower
    )
