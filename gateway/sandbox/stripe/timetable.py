"""What happens later by the stand-in's clock: sessions expire, slow payments end, webhooks are tried again.

Moving the clock ahead makes it happen at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable

from gateway.sandbox.clock import Clock

WAIT_SECONDS_MAX = 3600.0


class Timetable:
    """Actions by the time at which they are due."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call it so many seconds from now."""
        heapq.heappush(self._due, (self.clock.now_ms() + int(seconds * 1000), next(self._numbers), action))
        self._changed.set()

    async def sleep(self, seconds: float) -> None:
        """Wait so long by the clock."""
        over = asyncio.Event()
        self.after(seconds, over.set)
        await over.wait()

    def advance(self, seconds: float) -> None:
        """Move the clock ahead, and do what is due by then."""
        self.clock.advance(seconds)
        self.run_due()

    def run_due(self) -> None:
        """Do all that is due, in order."""
        while self._due and self._due[0][0] <= self.clock.now_ms():
            _, _, action = heapq.heappop(self._due)
            action()

    async def run(self) -> None:
        """Do what is due when it is, until cancelled."""
        while True:
            self.run_due()
            self._changed.clear()
            seconds = WAIT_SECONDS_MAX
            if self._due:
                seconds = max(0.001, (self._due[0][0] - self.clock.now_ms()) / 1000)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, WAIT_SECONDS_MAX)):
                    await self._changed.wait()
