"""The journal's thread, which commits, and how the event loop hears of it.

A disk may hang and another process may hold the lock, so the loop does not wait for commits (I9). With one exception,
which is bounded: for a call that is alone it stands by for PATIENCE_SECONDS, as long as commits are quicker than that.
Nobody else is served meanwhile, and it saves the way back through the loop: its wake-up, its turn, and the task's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter

from gateway.credits.pending import Batch

PATIENCE_SECONDS = 0.001

Told = Callable[[Batch, Exception | None], None]


class Committer:
    """Runs `commit` in its thread, for one batch at a time, and then `told` on the loop with what it raised."""

    def __init__(self, commit: Callable[[Batch], None], loop: asyncio.AbstractEventLoop, told: Told) -> None:
        self._commit = commit
        self._loop = loop
        self._told = told
        self._inbox: SimpleQueue[tuple[Batch, threading.Lock | None] | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._run, name="journal", daemon=True)
        self._is_quick = True
        self.commit_seconds = 0.0
        """How long the last commit took."""
        self._failure: Exception | None = None
        self._is_done = threading.Lock()
        self._is_done.acquire()

    def start(self) -> None:
        self._worker.start()

    def commit(self, batch: Batch) -> None:
        """Have it committed."""
        self._inbox.put((batch, None))

    def commit_at_once(self, batch: Batch) -> None:
        """The same, but `told` has been called when this returns, unless the commit takes its time."""
        if not self._is_quick:
            self.commit(batch)
            return
        first = threading.Lock()  # taken by who comes first: the commit, or the end of our patience
        self._inbox.put((batch, first))
        if not self._is_done.acquire(timeout=PATIENCE_SECONDS):
            if first.acquire(blocking=False):
                return
            self._is_done.acquire()
        self._told(batch, self._failure)

    async def stop(self, seconds: float) -> bool:
        """End the thread when what it has is committed; False if that takes longer than `seconds`."""
        self._inbox.put(None)
        await self._loop.run_in_executor(None, self._worker.join, seconds)
        return not self._worker.is_alive()

    def _run(self) -> None:
        while (order := self._inbox.get()) is not None:
            batch, first = order
            failure: Exception | None = None
            began = perf_counter()
            try:
                self._commit(batch)
            except Exception as error:  # noqa: BLE001 - those who wait must be told whatever happens
                failure = error
            self.commit_seconds = perf_counter() - began
            self._is_quick = self.commit_seconds < PATIENCE_SECONDS
            if first is not None and first.acquire(blocking=False):
                self._failure = failure
                self._is_done.release()
                continue
            with suppress(RuntimeError):  # the loop is closed: it was left behind, and nobody waits any more
                self._loop.call_soon_threadsafe(self._told, batch, failure)
