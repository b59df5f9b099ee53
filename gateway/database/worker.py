"""A thread for calls that block, which can't keep the process from ending.

An executor's threads are joined when the interpreter exits, so one that hangs in a disk's system call would keep a
process that was told to stop alive for as long as the disk hangs.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """Does one call after the other in a daemon thread, which starts with the first."""

    def __init__(self, name: str) -> None:
        self._inbox: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._started = False

    async def run(self, call: Callable[[], Result]) -> Result:
        """Give what `call` gives or raises. Cancelled, it is not begun; once begun, it is done to its end."""
        if not self._started:
            self._started = True
            self._thread.start()
        future: Future[Result] = Future()
        self._inbox.put((future, call))
        return await asyncio.wrap_future(future)

    def close(self, timeout_seconds: float) -> bool:
        """Do what is queued, then stop. False if the thread has not come to its end in time: it is left behind."""
        self._inbox.put(None)
        if self._started:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

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
