"""Watching Unkey: a probe while it is down, and the canary key that tells a wrong root key from wrong keys.

To a root key that may not verify, Unkey says NOT_FOUND of every key, with HTTP 200 (facts: #4482). Only a key that is
known to be there can tell that apart. Without one configured, the probe still tells whether Unkey answers at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from gateway.credits.provider import NO_POLICY
from gateway.credits.unkey.breaker import Breaker
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.errors import UnkeyUnavailable

logger = logging.getLogger("gateway.credits")

PROBE_SECONDS = 1.0
"""Between two probes while Unkey is down."""
CHECK_SECONDS = 300.0
"""Between two checks while it is up. Each is a verification of cost 0, which Unkey counts."""
FRESH_SECONDS = 5.0
"""How long the canary's last word is believed when a caller's key is not found."""
NOBODY = b"gw_probe_there_is_no_such_key"
"""Asked about where no canary key is configured: the answer NOT_FOUND is as good as any."""
MIS_SCOPED = "unkey finds no key: see the root key's permissions"


class Canary:
    """Asks Unkey about one key, at cost 0. `on_health` hears whether Unkey can be relied on, and why not.

    `breaker` is open while Unkey does not answer; whoever calls Unkey tells it how that went.
    """

    def __init__(
        self,
        client: UnkeyClient,
        key: bytes | None,
        on_health: Callable[[bool, str], None] | None = None,
    ) -> None:
        self._client = client
        self.breaker = Breaker(asyncio.get_running_loop().time, on_change=self._wake)
        self._key = key
        self._on_health = on_health
        self._found = True
        self._checked_at = -FRESH_SECONDS
        self._checking = asyncio.Lock()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Ask once, so that readiness says what is true from the start; then go on asking."""
        await self._check()
        self._task = asyncio.create_task(self._watch(), name="canary")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _wake(self) -> None:
        """The breaker has opened or closed."""
        self._woken.set()
        self._report()

    async def is_alive(self) -> bool:
        """Whether Unkey finds the canary key, by a look not older than a few seconds. True where there is none."""
        if self._key is None:
            return True
        async with self._checking:
            if time.monotonic() - self._checked_at >= FRESH_SECONDS:
                await self._ask()
        return self._found

    async def _watch(self) -> None:
        while True:
            self._woken.clear()
            try:
                async with asyncio.timeout(PROBE_SECONDS if self.breaker.is_open else CHECK_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                await self._check()

    async def _check(self) -> None:
        async with self._checking:
            await self._ask()

    async def _ask(self) -> None:
        try:
            verdict = await self._client.verify(self._key or NOBODY, 0, NO_POLICY, "", "")
        except UnkeyUnavailable as error:
            self.breaker.failed(error.cause)
        else:
            self.breaker.succeeded()
            found = self._key is None or verdict.code != "NOT_FOUND"
            if found != self._found:
                logger.log(
                    logging.WARNING if found else logging.ERROR, "the canary key is %sfound", "" if found else "not "
                )
            self._found = found
        self._checked_at = time.monotonic()
        self._report()

    def _report(self) -> None:
        if self._on_health is None:
            return
        if self.breaker.is_open:
            self._on_health(False, "unkey does not answer")
        else:
            self._on_health(self._found, "" if self._found else MIS_SCOPED)
