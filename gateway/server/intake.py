"""The door of the process: how many requests may begin, and who waits, or is refused, when there are more.

More work at once makes all of it later, and under overload until nothing is in time. So what has begun is bounded at
all times, and the rest waits at the door, where it costs nothing: unparsed, before a key is looked up or a credit is
held.

*How many may begin?* As many as keep the journal and the loop busy: so many that have begun and are not yet through
the journal as it says it is at its best with. (Who waits for its upstream is no work, and not counted.) So the rate is
the process's best whatever that is, and nothing has to be tuned. Where the journal stands still, the database is at
fault and not the crowd: then all are let in, and the journal tells them.

*Who next?* The oldest: a crowd is served in its order. But while the queue grows, the newest: who has waited for longer
is late already, and would make late whoever comes after (adaptive LIFO). So whoever is served is served soon from the
first moment of an overload on, long before it is known to be one. The same where the queue does not shrink and to go
through it takes longer than CROWD_SECONDS. (Callers who ask again at once are a queue that stays as it is: the newest
first would serve some of them again and again and never the others.) A queue grows if more have come than were let in,
by more than come and go in a jerk, and in the last two windows too: a crowd that came at once is one that only grew.

*Who is refused?* Nobody of a burst, for its end is near, unless there was an overload a moment ago. But when somebody
has waited for STAND_SECONDS, and the queue would not be gone before he has waited for WAIT_MAX_SECONDS at the rate at
which it shrinks, it is an overload. From then on, whoever has waited for PATIENCE_SECONDS is condemned: he is told 503,
oldest first, and not let in any more, also if the overload ends before he is told. It ends when the queue shrinks, or
when all who wait could be served in CROWD_SECONDS. Refusals get REFUSAL_SHARE of the time, evenly, for each brings a
new request, and as much as they can use when nobody else waits. Each connection waits with one request only, so callers
who ask again at once can't have more of the process than that.
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

CROWD_SECONDS = 0.075
"""What a queue may take to go through, for all who are in it to be served in their order."""
STAND_SECONDS = 0.5
"""How long a burst may last. On the way into an overload, this is how late the first of those too many are told."""
WARY_SECONDS = 5.0
"""So long after an overload, a queue that would have to be a burst's counts as one again, after WARY_STAND_SECONDS."""
WARY_STAND_SECONDS = 0.05
WINDOW_SECONDS = 0.01
"""How often the queue is judged. Of those who come in the first one, too many are served late."""
MEMORY = 0.9
"""How much of what came before counts on, a window later: load comes in jerks."""
SHRINKING = 0.05
"""A queue shrinks if fewer come than are let in, by this share of them."""
PATIENCE_SECONDS = 0.02
"""How long a request may wait for room under overload. What comes at the same moment is not yet too much; and who has
waited for longer would be served late."""
WAIT_MAX_SECONDS = 2.0
"""The same at any time."""
REFUSAL_SHARE = 0.05
"""Of the process's time, at most, for telling callers that there is no room, while others wait to be let in."""
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

    def full_at(self, *, of_newest: bool = False) -> int:
        """How many may wait, to keep it at its best; while the newest go first, so that they are served soon."""

    @property
    def is_stalled(self) -> bool:
        """Whether they wait because nothing gets through."""


class NoBacklog:
    """Nothing waits."""

    pending = 0
    is_stalled = False

    def full_at(self, *, of_newest: bool = False) -> int:  # noqa: ARG002 - nobody is late
        return 48


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
        self._condemned: deque[Caller] = deque()
        self._is_looking = self._is_growing = self._is_newest_first = False
        self._window_began = 0.0
        self._came = self._let_in = self._gone_before = 0
        self._gone_sum = self._let_in_sum = self._seconds_sum = 0.0
        self._wary_until = 0.0
        self._allowance_seconds = 0.0
        self._refilled_at = 0.0

    @property
    def waiting(self) -> int:
        """How many are at the door."""
        return len(self._held) + len(self._condemned)

    def admits(self) -> bool:
        """Whether one more request may begin. On the hot path."""
        return not self._held and self._count_running() < self._calls_max and self._has_room()

    def hold(self, caller: Caller) -> None:
        """Whose request was not admitted: it is when there is room, or it is told when there is time for that."""
        now = self._clock()
        if not self._is_looking:
            self._is_looking = True
            self._is_growing = False
            self._window_began = now
            self._came = self._let_in = self._gone_before = 0
            self._gone_sum = self._let_in_sum = self._seconds_sum = 0.0
            self._loop.call_soon(self._look)
        self._held.append((now, caller))
        self._came += 1

    def on_room(self) -> None:
        """The journal has got through something: who waits is let in behind those who go on for it."""
        if self._held:
            self._loop.call_soon(self._admit_held)

    def _has_room(self) -> bool:
        """For one more, which is counted."""
        backlog = self.backlog
        if self._begun + backlog.pending >= backlog.full_at(of_newest=self._is_newest_first) and not backlog.is_stalled:
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
        held, condemned, now = self._held, self._condemned, self._clock()
        try:
            if now - self._window_began >= WINDOW_SECONDS:
                self._judge(now)
            self._condemn_late(now)
            self._admit_held()
            self._refuse_condemned(now)
        finally:
            # Whatever happens: nobody else lets in those who wait here.
            if held:
                self._loop.call_later(LOOK_SECONDS, self._look)
            elif condemned:
                self._loop.call_soon(self._look)
            else:
                self._is_looking = self.is_overloaded = self._is_newest_first = False

    def _judge(self, now: float) -> None:
        """Look back on a window of time, and on those before."""
        held = self._held
        waited = now - held[0][0] if held else 0.0
        gone = self._let_in - self._came
        self._gone_sum = self._gone_sum * MEMORY + gone
        self._let_in_sum = self._let_in_sum * MEMORY + self._let_in
        self._seconds_sum = self._seconds_sum * MEMORY + now - self._window_began
        if gone + self._gone_before >= 0:
            self._is_growing = False
        elif -self._gone_sum > self.backlog.full_at():
            self._is_growing = True
        is_shrinking = self._gone_sum >= SHRINKING * self._let_in_sum
        stands = len(held) * self._seconds_sum > self._gone_sum * (WAIT_MAX_SECONDS - waited)
        # Whoever is refused and asks again at once comes and is never let in: if a short queue that stays as it is were
        # an overload, because it follows one, it would go on for ever by itself.
        is_long = self._is_long(self.waiting)
        returns = now <= self._wary_until and waited > WARY_STAND_SECONDS and (is_long or self._is_growing)
        self.is_overloaded = stands and (waited > STAND_SECONDS or returns or (self.is_overloaded and is_long))
        if self.is_overloaded:
            self._wary_until = now + WARY_SECONDS
        is_late = self._is_long(len(held)) and not is_shrinking
        self._is_newest_first = self.is_overloaded or self._is_growing or is_late
        self._window_began = now
        self._gone_before = gone
        self._came = self._let_in = 0

    def _is_long(self, waiting: int) -> bool:
        """Whether it takes too long to let in so many, at the rate of late."""
        return waiting * self._seconds_sum > CROWD_SECONDS * self._let_in_sum

    def _condemn_late(self, now: float) -> None:
        """Who has waited for too long is refused, though it ended now and there were room: he would be late."""
        is_full = self._count_running() >= self._calls_max
        late = now - (PATIENCE_SECONDS if self.is_overloaded or is_full else WAIT_MAX_SECONDS)
        held = self._held
        while held and held[0][0] < late:
            self._condemned.append(held.popleft()[1])

    def _admit_held(self) -> None:
        """Let in as many as there is room for, but not all at once: who begins together comes back together, and
        meanwhile there is room for nobody."""
        held, together_max = self._held, self.backlog.full_at(of_newest=self._is_newest_first) * 3 // 4
        while held and self._begun < together_max:
            end = -1 if self._is_newest_first else 0
            caller = held[end][1]
            if caller.leaving:
                del held[end]
                continue
            if self._count_running() >= self._calls_max or not self._has_room():
                break
            del held[end]
            self._let_in += 1
            self._tell(caller, caller.on_admitted)

    def _refuse_condemned(self, now: float) -> None:
        """Tell them, oldest first, for as long as that may take; where nobody waits to be let in, the time is free."""
        began, spent = time.thread_time(), 0.0
        condemned, is_free = self._condemned, not self._held
        refill = (now - self._refilled_at) * REFUSAL_SHARE
        allowance = min(self._allowance_seconds + refill, ALLOWANCE_MAX_SECONDS)
        for _ in range(min(REFUSALS_PER_LOOK, len(condemned))):
            if spent >= allowance and not is_free:
                break
            caller = condemned.popleft()
            self._tell(caller, caller.on_turned_away)
            spent = time.thread_time() - began
        self._allowance_seconds = allowance - (0.0 if is_free else spent)
        self._refilled_at = now

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
