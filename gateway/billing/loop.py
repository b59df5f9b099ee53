"""Work that is done again and again behind everybody's back, and must not stop for an error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.errors import GatewayError

logger = logging.getLogger("gateway.billing")


class Loop:
    """Does `work` every so many seconds, and at once when it is kicked."""

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], every_seconds: float) -> None:
        self._name = name
        self._work = work
        self._every_seconds = every_seconds
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name=self._name)

    def kick(self) -> None:
        self._kicked.set()

    async def aclose(self) -> None:
        """Stop, in the middle of the work if need be: all of it stands that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self._kicked.clear()
            try:
                await self._work()
            except GatewayError as error:
                logger.warning("%s waits: %s", self._name, error.cause or error)
            except Exception:
                logger.exception("%s failed; going on", self._name)
            try:
                async with asyncio.timeout(self._every_seconds):
                    await self._kicked.wait()
            except TimeoutError:
                pass
