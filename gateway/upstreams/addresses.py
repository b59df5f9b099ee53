"""The addresses of a target's host name: looked up in the loop's resolver threads, anew every so often.

The first look-up is waited for by whoever connects first. From then on those that are known serve while a look-up runs,
and on when it fails: a name server that is down takes no target with it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING

from gateway.deadlines import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.deadlines import Deadlines
    from gateway.upstreams.targets import Target

logger = logging.getLogger("gateway.upstreams")


class Addresses:
    """Gives the addresses to connect to, in the order in which they are to be tried.

    Connections are spread over the addresses in turn. One that failed is tried last, until the next look-up.
    `on_change` is told all addresses whenever they are others than before. Watched by Deadlines once in use.
    """

    __slots__ = (
        "_deadlines",
        "_failed",
        "_known",
        "_lookup",
        "_loop",
        "_on_change",
        "_refresh_seconds",
        "_target",
        "_turn",
        "deadline",
    )

    def __init__(
        self,
        target: Target,
        refresh_seconds: float,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[frozenset[str]], None],
    ) -> None:
        self.deadline = NEVER
        self._target = target
        self._refresh_seconds = refresh_seconds
        self._deadlines = deadlines
        self._loop = loop
        self._on_change = on_change
        self._known: tuple[str, ...] = (target.host,) if _is_address(target.host) else ()
        self._failed: set[str] = set()
        self._turn = 0
        self._lookup: asyncio.Task[None] | None = None

    async def in_order(self) -> list[str]:
        """At least one. Raises OSError (socket.gaierror) if the name was never found. Cancelling it is harmless."""
        if not self._known:
            await asyncio.shield(self._look_up())
        self._turn += 1
        start = self._turn % len(self._known)
        turned = self._known[start:] + self._known[:start]
        return sorted(turned, key=self._failed.__contains__)

    def has_failed(self, address: str) -> None:
        self._failed.add(address)

    def on_deadline(self, now: float) -> None:
        self.deadline = NEVER
        del now
        self._look_up()

    async def aclose(self) -> None:
        self._deadlines.unwatch(self)
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.wait([self._lookup])

    def _look_up(self) -> asyncio.Task[None]:
        """The look-up that runs; one is begun if there is none."""
        if self._lookup is None:
            self._lookup = self._loop.create_task(self._ask())
            self._lookup.add_done_callback(self._looked_up)
            self._deadlines.watch(self)
        return self._lookup

    def _looked_up(self, lookup: asyncio.Task[None]) -> None:
        self._lookup = None
        if lookup.cancelled():
            return
        self.deadline = self._loop.time() + self._refresh_seconds
        error = lookup.exception()
        if error is not None:
            logger.warning("the name of %s was not found: %s", self._target.url, error)
            if not self._known:
                self.deadline = NEVER  # whoever connects next asks again

    async def _ask(self) -> None:
        target = self._target
        found = await self._loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        known = tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "The name has no address")
        self._failed.clear()
        before, self._known = self._known, known
        if before and set(before) != set(known):
            logger.info("%s has other addresses now: %s", target.url, ", ".join(known))
            self._on_change(frozenset(known))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
