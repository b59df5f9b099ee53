"""Work that is finished once it was begun, whoever leaves meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from gateway.errors import GatewayError

logger = logging.getLogger("gateway.api")

LEAVE_SECONDS = 5.0
"""How long closing waits for what still runs."""

T = TypeVar("T")


class Background:
    """Runs each piece of work in a task of its own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result. Cancelled, this stops waiting; the work goes on."""
        task = asyncio.create_task(work, name="control plane")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait a while for all of it, then cancel the rest."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=LEAVE_SECONDS)
            for task in late:
                task.cancel()
            if late:
                logger.warning("%d requests of the control plane were cut", len(late))
                await asyncio.wait(late, timeout=1)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Whoever still waits is told; this keeps the loop from complaining where nobody does.
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, GatewayError):
            logger.debug("work of the control plane failed: %s", type(error).__name__)
