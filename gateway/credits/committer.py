"""Who commits the journal's batches, and how the event loop hears of it.

A disk may hang and another process may hold the lock, and SQLite's calls block: so a thread makes them, and the loop
does not wait for it (I9). A server is waited for by the loop itself, which serves others meanwhile: to hand a batch to
a thread and back took a part of each commit, and of each lone call twice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Protocol

from gateway.credits.pending import Batch

PATIENCE_SECONDS = 0.001

Commit = Callable[[Batch], Coroutine[Any, Any, None]]
Told = Callable[[Batch, Exception | None], None]


class Committer(Protocol):
    """Commits one batch at a time, and then tells on the loop what that raised.

    `waited_seconds`: how long the last commit waited for a server."""

    waited_seconds: float

    def start(self) -> None: ...

    def commit(self, batch: Batch) -> None:
        """Have it committed."""

    def commit_at_once(self, batch: Batch) -> None:
        """The same for a call that is alone: it may have been told when this returns."""

    async def stop(self, seconds: float) -> bool:
        """Begin no other commit, and wait for the one under way. False if that takes longer than `seconds`."""


class ThreadCommitter:
    """Implements Committer by a thread, for commits that block and never suspend.

    For a call that is alone the loop stands by for PATIENCE_SECONDS, as long as commits are quicker than that. Nobody
    else is served meanwhile, and it saves the way back through the loop: its wake-up, its turn, and the task's.
    """

    def __init__(self, commit: Commit, loop: asyncio.AbstractEventLoop, told: Told) -> None:
        self.waited_seconds = 0.0
        self._commit = commit
        self._loop = loop
        self._told = told
        self._inbox: SimpleQueue[tuple[Batch, threading.Lock | None] | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._run, name="journal", daemon=True)
        self._is_quick = True
        self._failure: Exception | None = None
        self._is_done = threading.Lock()
        self._is_done.acquire()

    def start(self) -> None:
        self._worker.start()

    def commit(self, batch: Batch) -> None:
        self._inbox.put((batch, None))

    def commit_at_once(self, batch: Batch) -> None:
        """Whoever waits has been told when this returns, unless the commit takes its time."""
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
        """What takes longer is left behind with its thread."""
        self._inbox.put(None)
        await self._loop.run_in_executor(None, self._worker.join, seconds)
        return not self._worker.is_alive()

    def _run(self) -> None:
        while (order := self._inbox.get()) is not None:
            batch, first = order
            failure: Exception | None = None
            began = perf_counter()
            try:
                finish(self._commit(batch))
            except Exception as error:  # noqa: BLE001 - those who wait must be told whatever happens
                failure = error
            self._is_quick = perf_counter() - began < PATIENCE_SECONDS
            if first is not None and first.acquire(blocking=False):
                self._failure = failure
                self._is_done.release()
                continue
            with suppress(RuntimeError):  # the loop is closed: it was left behind, and nobody waits any more
                self._loop.call_soon_threadsafe(self._told, batch, failure)


class LoopCommitter:
    """Implements Committer by tasks of the loop, for commits that block nothing."""

    def __init__(self, commit: Commit, loop: asyncio.AbstractEventLoop, told: Told) -> None:
        self.waited_seconds = 0.0
        self._commit = commit
        self._loop = loop
        self._told = told
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False

    def start(self) -> None:
        """There is nothing to start."""

    def commit(self, batch: Batch) -> None:
        if not self._is_stopped:
            # A task of its own: whoever waits for the batch may be cancelled, the commit is not.
            self._task = self._loop.create_task(self._run(batch), name="journal")

    def commit_at_once(self, batch: Batch) -> None:
        self.commit(batch)

    async def stop(self, seconds: float) -> bool:
        """What takes longer is broken off, which closes its connection: the server may have got its COMMIT or not."""
        self._is_stopped = True
        task = self._task
        if task is None or task.done():
            return True
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return True
        task.cancel()
        await asyncio.wait({task})
        return False

    async def _run(self, batch: Batch) -> None:
        failure: Exception | None = None
        began = perf_counter()
        try:
            await self._commit(batch)
        except Exception as error:  # noqa: BLE001 - those who wait must be told whatever happens
            failure = error
        self.waited_seconds = perf_counter() - began
        self._told(batch, failure)


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Bring what never suspends to its end, where there is no event loop."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("it suspends, and nobody would ever go on with it")
