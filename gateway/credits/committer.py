"""Who commits the journal's batches, and how the event loop hears of it.

A disk may hang and another process may hold the lock, and SQLite's calls block: so a thread makes them, and the loop
does not wait for it (I9). A server is waited for by the loop itself, which serves others meanwhile: to hand a batch to
a thread and back took a part of each commit, and of each lone call twice.
"""

from __future__ import annotations

import asyncio
import os
import resource
import select
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

    `waited_seconds`: how long the last commit waited for a server. `was_busy`: all the while the loop had something to
    do, so the server may have answered long before."""

    waited_seconds: float
    was_busy: bool

    def start(self) -> None: ...

    def commit(self, batch: Batch) -> None:
        """Have it committed."""

    def commit_at_once(self, batch: Batch) -> None:
        """The same for a call that is alone: it may have been told when this returns."""

    def go_on(self) -> None:
        """The store's word that something it waited for has come."""

    async def stop(self, seconds: float) -> bool:
        """Begin no other commit, and wait for the one under way. False if that takes longer than `seconds`."""


class ThreadCommitter:
    """Implements Committer by a thread, for commits that block and never suspend.

    For a call that is alone the loop stands by for PATIENCE_SECONDS, as long as commits are quicker than that. Nobody
    else is served meanwhile, and it saves the way back through the loop: its wake-up, its turn, and the task's.
    """

    def __init__(self, commit: Commit, loop: asyncio.AbstractEventLoop, told: Told) -> None:
        self.waited_seconds, self.was_busy = 0.0, False
        self._commit = commit
        self._loop = loop
        self._told = told
        self._inbox: SimpleQueue[tuple[Batch, threading.Lock | None] | None] = SimpleQueue()
        self._worker = threading.Thread(target=self._run, name="journal", daemon=True)
        self._is_quick = True
        self._failure: Exception | None = None
        self._done_reader, self._done_writer = os.pipe()
        poll = select.poll()
        poll.register(self._done_reader, select.POLLIN)
        self._poll = poll.poll

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
        if not self._poll(PATIENCE_SECONDS * 1000) and first.acquire(blocking=False):
            return
        os.read(self._done_reader, 1)
        self._told(batch, self._failure)

    def go_on(self) -> None:
        """The thread needs no telling."""

    async def stop(self, seconds: float) -> bool:
        """What takes longer is left behind with its thread."""
        self._inbox.put(None)
        await self._loop.run_in_executor(None, self._worker.join, seconds)
        if self._worker.is_alive():
            return False
        self._is_quick = False
        os.close(self._done_reader)
        os.close(self._done_writer)
        return True

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
                os.write(self._done_writer, b"!")
                continue
            with suppress(RuntimeError):  # the loop is closed: it was left behind, and nobody waits any more
                self._loop.call_soon_threadsafe(self._told, batch, failure)


class LoopCommitter:
    """Implements Committer on the loop, for commits that block nothing.

    It takes a commit's steps itself, the next in the moment in which the server has answered (`go_on`). A task would be
    woken by the loop's next turn, twice in a commit; and where a crowd is served, a turn takes longer than the server.
    """

    def __init__(self, commit: Commit, loop: asyncio.AbstractEventLoop, told: Told) -> None:
        self.waited_seconds, self.was_busy = 0.0, False
        self._commit = commit
        self._loop = loop
        self._told = told
        self._batch: Batch | None = None
        self._steps: Coroutine[Any, Any, None] | None = None
        self._awaited: asyncio.Future[Any] | None = None
        self._has_waited = False
        self._began, self._rests_before = 0.0, 0
        self._ended: asyncio.Future[None] | None = None
        self._is_stopped = False

    def start(self) -> None:
        """There is nothing to start."""

    def commit(self, batch: Batch) -> None:
        if not self._is_stopped:
            self._batch, self._steps, self._has_waited = batch, self._commit(batch), False
            self._began, self._rests_before = perf_counter(), count_rests()
            self._step()

    def commit_at_once(self, batch: Batch) -> None:
        self.commit(batch)

    def go_on(self) -> None:
        """What the commit waits for may be there. It is never too late to say so, nor too early."""
        if self._awaited is not None and self._awaited.done():
            self._step()

    async def stop(self, seconds: float) -> bool:
        """What takes longer is broken off, which closes its connection: the server may have got its COMMIT or not."""
        self._is_stopped = True
        if self._steps is None:
            return True
        self._ended = self._loop.create_future()
        await asyncio.wait({self._ended}, timeout=seconds)
        if self._ended.done():
            return True
        steps, awaited, self._steps, self._awaited = self._steps, self._awaited, None, None
        steps.close()
        if awaited is not None:
            awaited.cancel()
        return False

    def _step(self) -> None:
        steps, self._awaited = self._steps, None
        assert steps is not None
        failure: Exception | None = None
        try:
            self._wait_for(steps.send(None))
            return
        except StopIteration:
            pass
        except Exception as error:  # noqa: BLE001 - those who wait must be told whatever happens
            failure = error
        self._end(failure)

    def _wait_for(self, future: Any) -> None:
        """For what the commit has suspended itself for: a future, as asyncio's awaitables do."""
        self._awaited, self._has_waited = future, True
        future.add_done_callback(self._on_done)

    def _on_done(self, future: asyncio.Future[Any]) -> None:
        if future is self._awaited:
            self._step()

    def _end(self, failure: Exception | None) -> None:
        batch, self._batch, self._steps = self._batch, None, None
        assert batch is not None
        self.waited_seconds = perf_counter() - self._began
        self.was_busy = count_rests() == self._rests_before
        if self._ended is not None:
            self._ended.set_result(None)
        if self._has_waited:
            self._told(batch, failure)
        else:  # whoever had it committed is not ready to hear of it, and might have the next one fail as soon
            self._loop.call_soon(self._told, batch, failure)


def count_rests() -> int:
    """How often this thread has had nothing to do so far, and let others have the processor. (Its share of the time
    would not tell: it may have been others who took it.) It counts too when it waited for the interpreter's lock, which
    other threads want now and then; where threads are not counted apart, all of theirs."""
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_nvcsw


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Bring what never suspends to its end, where there is no event loop."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("it suspends, and nobody would ever go on with it")
