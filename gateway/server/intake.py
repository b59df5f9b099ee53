"""The door of the process: how many requests may begin, and who waits, or is refused, when there are more.

More work at once makes all of it later, and under overload until nothing is in time. So what has begun is bounded at
all times, and the rest waits at the door, where it costs nothing: unparsed, before a key is looked up or a credit is
held.

*How many may begin?* As many as keep the journal and the loop busy: so many that have begun and are not yet through
the journal as it says it is at its best with. (Who waits for its upstream is no work, and not counted.) So the rate is
the process's best whatever that is, and nothing has to be tuned. Where the journal stands still, the database is at
fault and not the crowd: then all are let in, and the journal tells them.

*Who next?* The oldest: a crowd is served in its order. But when somebody has waited for FIFO_SECONDS, and in the last
WINDOW_SECONDS the queue has not become shorter, the newest: who has waited for longer is late already, and would make
late whoever comes after (adaptive LIFO). So whoever is served is served soon from the first moment of an overload on,
long before it is known to be one.

*Who is refused?* Nobody of a burst, for its end is near, unless there was an overload a moment ago. But when somebody
has waited for STAND_SECONDS, and the queue would not be gone before he has waited for WAIT_MAX_SECONDS at the rate at
which it shrinks, it is an overload. From then on, whoever has waited for PATIENCE_SECONDS is told 503, oldest first,
and not let in any more. Refusals get REFUSAL_SHARE of the time. Each connection waits with one request only, so
callers who ask again at once can't have more of the process than that.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection

FIFO_SECONDS = 0.05
STAND_SECONDS = 0.5
"""How long a burst may last. On the way into an overload, this is how late the first of those too many are told."""
WARY_SECONDS = 5.0
"""So long after an overload, a queue that would have to be a burst's counts as one again."""
WINDOW_SECONDS = 0.05
MEMORY = 0.5
"""How much of what came before counts on, a window later: load comes in jerks."""
SHRINKING = 0.05
"""A queue shrinks if fewer come than are let in, by this share of them."""
PATIENCE_SECONDS = 0.05
"""How long a request waits for room, under overload, before it is refused: what comes at the same moment is not yet too
much."""
WAIT_MAX_SECONDS = 2.0
"""The same at any time."""
REFUSAL_SHARE = 0.05
"""Of the process's time, at most, for telling callers that there is no room."""
ALLOWANCE_MAX_SECONDS = 0.002
LOOK_SECONDS = 0.001
REFUSALS_PER_LOOK = 32
"""So many at a time: the turn of the loop must stay short."""

LENGTH = re.compile(rb"(?<=\r\n)content-length: ?([0-9]{1,9})\r\n")

logger = logging.getLogger(__name__)


class Caller(Protocol):
    """Whose request waits at the door."""

    @property
    def leaving(self) -> bool:
        """Whether nobody is there any more."""

    def on_admitted(self) -> None:
        """There is room."""

    def on_turned_away(self) -> None:
        """There is none, and time to say so."""

    def abort(self) -> None:
        """Close the connection at once."""


class Backlog(Protocol):
    """What calls wait for inside the process: the journal."""

    @property
    def pending(self) -> int:
        """How many wait."""

    @property
    def full_at(self) -> int:
        """How many may wait, to keep it at its best."""

    @property
    def is_stalled(self) -> bool:
        """Whether they wait because nothing gets through."""


class NoBacklog:
    """Nothing waits."""

    pending = 0
    full_at = 48
    is_stalled = False


class Intake:
    """Decides over the requests of one listener. `calls_max` bounds those that run, overload or not."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        calls_max: int,
        count_running: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backlog: Backlog = NoBacklog()
        self.is_overloaded = False
        self._loop = loop
        self._calls_max = calls_max
        self._count_running = count_running
        self._clock = clock
        self._begun = 0
        self._held: deque[tuple[float, Caller]] = deque()
        self._is_looking = self._is_standing = False
        self._window_began = 0.0
        self._came = self._let_in = 0.0
        self._wary_until = 0.0
        self._allowance_seconds = 0.0
        self._refilled_at = 0.0

    @property
    def waiting(self) -> int:
        """How many are at the door."""
        return len(self._held)

    def admits(self) -> bool:
        """Whether one more request may begin. On the hot path."""
        return not self._held and self._count_running() < self._calls_max and self._has_room()

    def hold(self, caller: Caller) -> None:
        """Whose request was not admitted: it is when there is room, or it is told when there is time for that."""
        now = self._clock()
        if not self._is_looking:
            self._is_looking = True
            self._window_began = now
            self._came = self._let_in = 0.0
            self._loop.call_soon(self._look)
        self._held.append((now, caller))
        self._came += 1

    def _has_room(self) -> bool:
        """For one more, which is counted."""
        backlog = self.backlog
        if self._begun + backlog.pending >= backlog.full_at and not backlog.is_stalled:
            return False
        if not self._begun:
            self._loop.call_soon(self._begin_anew)
        self._begun += 1
        return True

    def _begin_anew(self) -> None:
        """Those who began in the last turn wait for the journal by now, and count there."""
        self._begun = 0

    # --- at the door ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        held, now = self._held, self._clock()
        try:
            if held and now - self._window_began >= WINDOW_SECONDS:
                self._judge(now)
            is_full = self._admit_held(now)
            self._refuse_held(now, PATIENCE_SECONDS if self.is_overloaded or is_full else WAIT_MAX_SECONDS)
        finally:
            # Whatever happens: nobody else lets in those who wait here.
            if held:
                self._loop.call_later(LOOK_SECONDS, self._look)
            else:
                self._is_looking = self._is_standing = self.is_overloaded = False

    def _admit_held(self, now: float) -> bool:
        """Let in as many as there is room for. Whether as many run as may run at all."""
        held = self._held
        while held:
            is_late = held[0][0] < now - FIFO_SECONDS
            end = -1 if self.is_overloaded or (is_late and self._is_standing) else 0
            since, caller = held[end]
            if caller.leaving:
                del held[end]
                continue
            if self.is_overloaded and since < now - PATIENCE_SECONDS:
                break
            if self._count_running() >= self._calls_max:
                return True
            if not self._has_room():
                break
            del held[end]
            self._let_in += 1
            self._tell(caller, caller.on_admitted)
        return False

    def _judge(self, now: float) -> None:
        """Look back on a window of time."""
        waited = now - self._held[0][0]
        gone = self._let_in - self._came
        self._is_standing = gone < SHRINKING * self._let_in
        gone_per_second = gone * (1 - MEMORY) / WINDOW_SECONDS
        stands = len(self._held) > gone_per_second * (WAIT_MAX_SECONDS - waited)
        burst_seconds = STAND_SECONDS if now > self._wary_until else PATIENCE_SECONDS
        self.is_overloaded = stands and (self.is_overloaded or waited > burst_seconds)
        if self.is_overloaded:
            self._wary_until = now + WARY_SECONDS
        self._window_began = now
        self._came *= MEMORY
        self._let_in *= MEMORY

    def _refuse_held(self, now: float, patience_seconds: float) -> None:
        """Refuse the oldest for as long as refusals may take."""
        began = time.thread_time()
        allowance = self._allowance_seconds + (now - self._refilled_at) * REFUSAL_SHARE
        held, self._refilled_at = self._held, now
        if allowance > 0:
            for _ in range(min(REFUSALS_PER_LOOK, len(held))):
                if held[0][0] > now - patience_seconds:
                    break
                caller = held.popleft()[1]
                self._tell(caller, caller.on_turned_away)
            allowance = min(allowance, ALLOWANCE_MAX_SECONDS) - (time.thread_time() - began)
        self._allowance_seconds = allowance

    @staticmethod
    def _tell(caller: Caller, tell: Callable[[], None]) -> None:
        """A defect that one request brings to light is not to stop the others."""
        try:
            tell()
        except Exception:
            logger.exception("a request that had waited at the door")
            caller.abort()


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
