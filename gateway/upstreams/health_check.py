"""Asks a target how it is, every so often, on a connection of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from gateway.upstreams.transport import UpstreamRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from gateway.config.tree import HealthCheckSection
    from gateway.upstreams.transport import TargetTransport, UpstreamResponse

JITTER = 0.1
"""Of the interval, either way: several gateways must not ask in step."""
BODY_MAX_BYTES = 65_536
HEADERS = [(b"user-agent", b"credit-gateway health check"), (b"accept", b"*/*")]


class HealthCheck:
    """Runs until `aclose`. A target counts as healthy until it has failed often enough.

    `tell` hears of changes: whether the target is down, and why. The transport is the check's own.
    """

    def __init__(
        self,
        settings: HealthCheckSection,
        transport: TargetTransport,
        tell: Callable[[bool, str], None],
        chance: Random,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._tell = tell
        self._chance = chance
        self._is_down = False
        self._row = 0
        self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        interval = self._settings.interval_seconds
        await asyncio.sleep(self._chance.random() * min(interval, 1))
        while True:
            self._note(await self._ask())
            await asyncio.sleep(interval * (1 + JITTER * (2 * self._chance.random() - 1)))

    def _note(self, wrong: str) -> None:
        """Count what speaks against how the target stands."""
        self._row = self._row + 1 if bool(wrong) != self._is_down else 0
        limit = self._settings.healthy_after if self._is_down else self._settings.unhealthy_after
        if self._row >= limit:
            self._row = 0
            self._is_down = not self._is_down
            self._tell(self._is_down, wrong)

    async def _ask(self) -> str:
        """What is wrong; "" for a good answer."""
        settings = self._settings
        request = UpstreamRequest(b"GET", settings.path.encode("ascii"), list(HEADERS))
        try:
            async with asyncio.timeout(settings.timeout_seconds):
                response = await self._transport.send(request)
                try:
                    await _read_away(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            return f"the health check had no answer in {settings.timeout_seconds:g} s"
        except GatewayError as error:
            return f"the health check failed: {error.cause or error.title}"
        status, expected = response.status, settings.expect_status
        if status == expected or (expected is None and 200 <= status < 300):
            return ""
        return f"the health check was answered {status}"

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._transport.aclose()


async def _read_away(response: UpstreamResponse) -> None:
    """To its end, if that is near: then the connection can be used again."""
    size = len(response.body or b"")
    while response.body is None and size <= BODY_MAX_BYTES and (chunk := await response.read()):
        size += len(chunk)
