"""One timer for all deadlines of an event loop.

A timer object per request costs more than the request's own bookkeeping. Whoever waits for bytes (a server
connection, an upstream connection, a batch of holds) keeps a plain float `deadline` instead; one ticking timer
looks at them all. A deadline is therefore met with a tolerance of one tick, never early.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Protocol

logger = logging.getLogger(__name__)

NEVER = math.inf
"""The deadline of something that may wait for ever."""


class Expiring(Protocol):
    """Something that may be late. `deadline` is in `loop.time()` seconds."""

    deadline: float

    def on_deadline(self, now: float) -> None:
        """Called once a tick while `deadline` has passed; must move it or set it to NEVER."""


class Deadlines:
    """Watches Expiring things and tells each that its deadline has passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, tick_seconds: float = 0.1) -> None:
        self._loop = loop
        self._tick_seconds = tick_seconds
        self._watched: set[Expiring] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, thing: Expiring) -> None:
        self._watched.add(thing)
        if self._timer is None:
            self._timer = self._loop.call_later(self._tick_seconds, self._tick)

    def unwatch(self, thing: Expiring) -> None:
        self._watched.discard(thing)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watched.clear()

    def _tick(self) -> None:
        now = self._loop.time()
        late = [thing for thing in self._watched if thing.deadline <= now]
        self._timer = self._loop.call_later(self._tick_seconds, self._tick) if self._watched else None
        for thing in late:
            try:
                thing.on_deadline(now)
            except Exception:  # one that fails must not keep the others from being told
                logger.exception("a deadline's treatment failed")
