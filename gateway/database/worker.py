"""Threads for calls that block, which can't keep the process from ending.

An executor's threads are joined when the interpreter exits, so one that hangs in a disk's system call would keep a
process that was told to stop alive for as long as the disk hangs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """Does one call after the other in each of its daemon threads, which start with the first."""

    def __init__(self, name: str, *, threads: int = 1) -> None:
        self._inbox: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(threads)]
        self._started = False

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return self._inbox.qsize()

    async def run(self, call: Callable[[], Result]) -> Result:
        """Give what `call` gives or raises. Cancelled, it is not begun; once begun, it is done to its end."""
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        future: Future[Result] = Future()
        self._inbox.put((future, call))
        return await asyncio.wrap_future(future)

    def close(self, timeout_seconds: float) -> bool:
        """Do what is queued, then stop. False if a thread has not come to its end in time: it is left behind."""
        for _ in self._threads:
            self._inbox.put(None)
        if self._started:
            give_up_at = time.monotonic() + timeout_seconds
            for thread in self._threads:
                thread.join(max(0.0, give_up_at - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (order := self._inbox.get()) is not None:
            future, call = order
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asked
                future.set_exception(error)
            else:
                future.set_result(result)
            del order, future, call
