"""Closes what was replaced, when the last call that still uses it is over.

Nobody counts calls for that. A call refers to its route for as long as it runs, so a route that nothing refers to any
more has no calls (CPython frees an object with its last reference). A look a second finds that out.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Iterable

from gateway.deadlines import Deadlines

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0

Close = Callable[[], Awaitable[None]]
"""Must not refer to the users."""


class Retirement:
    """On one event loop. Watched by Deadlines (it is Expiring)."""

    def __init__(self, deadlines: Deadlines) -> None:
        self.deadline = 0.0
        self._waiting: list[tuple[list[weakref.ref[object]], Close]] = []
        self._closing: set[asyncio.Task[None]] = set()
        deadlines.watch(self)

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    def retire(self, users: Iterable[object], close: Close) -> None:
        """Close it when all users are gone. The users must take weak references."""
        self._waiting.append(([weakref.ref(user) for user in users], close))

    def on_deadline(self, now: float) -> None:
        self.deadline = now + LOOK_SECONDS
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for users, close in waiting:
            if any(user() is not None for user in users):
                self._waiting.append((users, close))
            else:
                task = asyncio.get_running_loop().create_task(_close(close))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close all of it now."""
        for _, close in self._waiting:
            await _close(close)
        self._waiting.clear()
        await asyncio.gather(*self._closing)


async def _close(close: Close) -> None:
    try:
        await close()
    except Exception:  # one that fails must not keep the others open
        logger.exception("something replaced could not be closed")
