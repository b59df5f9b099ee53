"""Watching Unkey: a probe while it is down, and the canary key that tells a wrong root key from wrong keys.

To a root key that may not verify, Unkey says NOT_FOUND of every key, with HTTP 200 (facts: #4482). Only a key that is
known to be there can tell that apart. Without one configured, the probe still tells whether Unkey answers at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.credits.provider import NO_POLICY
from gateway.credits.unkey.breaker import Breaker
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.errors import UnkeyUnavailable
from gateway.errors import GatewayError

logger = logging.getLogger("gateway.credits")

PROBE_SECONDS = 1.0
"""Between two probes while Unkey is down, or does not find the canary."""
LIVENESS_SECONDS = 3.0
"""Between two looks while it is up at whether Unkey's servers run: without a call nobody else would find out."""
CHECK_SECONDS = 300.0
"""Between two checks while it is up. Each is a verification of cost 0, which Unkey counts."""
LOOK_SECONDS = 1.0
"""How long a caller whose key is not found waits for the canary's word."""
BLIND_SECONDS = 5.0
"""How long NOT_FOUND is not believed after it was said of a key that Unkey keeps."""
NOBODY = b"gw_probe_there_is_no_such_key"
"""Asked about where no canary key is configured: the answer NOT_FOUND is as good as any."""
USABLE = frozenset({"VALID", "RATE_LIMITED", "USAGE_EXCEEDED", "INSUFFICIENT_PERMISSIONS"})
"""What Unkey says of a key that it finds. FORBIDDEN, of all keys, is a workspace that was switched off."""
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
        self._found: bool | None = None
        self._looking = asyncio.Lock()
        self._looks_begun = 0
        self._look_ended = 0
        self._was_found = False
        self._blind_until = 0.0
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
        """The breaker has opened or closed: the next look is due sooner or later than it was."""
        self._woken.set()
        self._report()

    async def is_alive(self, unkey_id: str | None = None) -> bool:
        """Whether Unkey's NOT_FOUND can be believed: it finds the canary key, by a look that begins after this call,
        for what it said before may no longer be true. Those who wait share one. False where it does not answer.

        Without a canary key only what Unkey tells of the key itself can help: `unkey_id` is a key of our books.
        """
        if self._key is None:
            return unkey_id is None or not await self._is_there(unkey_id)
        wanted = self._looks_begun + 1
        try:
            async with asyncio.timeout(LOOK_SECONDS), self._looking:
                if self._look_ended < wanted:
                    await self._look()
        except TimeoutError:
            return False
        return self._was_found

    async def _is_there(self, unkey_id: str) -> bool:
        """Whether Unkey keeps a key that it has just said not to find. True too where it does not answer."""
        clock = asyncio.get_running_loop().time
        if clock() < self._blind_until:
            return True
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                found = await self._client.get_key(unkey_id) is not None
        except (GatewayError, TimeoutError):
            return True
        if found:
            self._blind_until = clock() + BLIND_SECONDS
            logger.error("Unkey does not find a key that it keeps: see the root key's permissions")
        return found

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        checked_at = clock()
        while True:
            self._woken.clear()
            is_well = self._found and not self.breaker.cause
            try:
                async with asyncio.timeout(LIVENESS_SECONDS if is_well else PROBE_SECONDS):
                    await self._woken.wait()
            except TimeoutError:
                # What is not live may only not answer there: the verdict is a verification's.
                if not is_well or clock() - checked_at >= CHECK_SECONDS or not await self._client.is_live():
                    await self._check()
                    checked_at = clock()

    async def _check(self) -> None:
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        self._looks_begun = number = self._looks_begun + 1
        try:
            verdict = await self._client.verify(self._key or NOBODY, 0, NO_POLICY, "", "")
        except UnkeyUnavailable as error:
            self.breaker.failed(error.cause)
            self._was_found = False
        else:
            self.breaker.succeeded()
            self._was_found = self._key is None or verdict.code in USABLE
            if not self._was_found and self._found is not False:
                logger.error("the canary key is not found: see the root key's permissions")
            elif self._was_found and self._found is False:
                logger.warning("the canary key is found again")
            if self._was_found is not self._found:
                self._found = self._was_found
                self._woken.set()
        self._look_ended = number
        self._report()

    def _report(self) -> None:
        if self._on_health is None:
            return
        if self.breaker.is_open or self._found is None:
            self._on_health(False, "unkey does not answer")
        else:
            self._on_health(self._found, "" if self._found else MIS_SCOPED)
