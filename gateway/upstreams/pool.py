"""The connections to one target: at most so many, the last used first, and a short queue for one.

Who finds no idle connection waits in the queue, and the pool opens connections for the queue in tasks of its own. So
a caller who leaves takes nothing along: its place in the queue goes, a connection handed to it at that very moment
goes on to the next, and one being opened serves whoever waits by then, or becomes idle.

Invariant: `open_count` = idle + busy + being opened ≤ `connections_max`. No awaits between looking and taking: on one
event loop no lock is needed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from gateway.deadlines import NEVER
from gateway.errors import NoHealthyTarget, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from gateway.upstreams.addresses import Addresses
from gateway.upstreams.http1_connection import Http1Connection

if TYPE_CHECKING:
    import ssl

    from gateway.config.tree import UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.upstreams.targets import Target

WAITERS_PER_CONNECTION = 4
"""Longest queue, in multiples of `connections_max`: longer ones would only time out."""

Waiter = asyncio.Future[Http1Connection]


class Pool:
    """Lends connections to one target. `deadline` is that of the oldest waiter for whom none is being opened."""

    __slots__ = (
        "_addresses",
        "_closed",
        "_connections",
        "_deadlines",
        "_dials",
        "_emptied",
        "_idle",
        "_loop",
        "_outdated",
        "_settings",
        "_tls",
        "_waiters",
        "_wanted_dials",
        "deadline",
        "open_count",
        "target",
    )

    def __init__(
        self,
        target: Target,
        settings: UpstreamSection,
        tls: ssl.SSLContext | None,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.target = target
        self.deadline = NEVER
        self.open_count = 0
        self._settings = settings
        self._tls = tls if target.tls else None
        self._deadlines = deadlines
        self._loop = loop
        self._idle: list[Http1Connection] = []
        self._connections: set[Http1Connection] = set()
        self._waiters: deque[tuple[Waiter, float]] = deque()
        self._addresses = Addresses(target, settings.dns_refresh_seconds, deadlines, loop, self._leave_others)
        self._outdated: set[Http1Connection] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._wanted_dials = 0
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None
        deadlines.watch(self)

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    @property
    def waiting_count(self) -> int:
        return len(self._waiters)

    @property
    def load(self) -> int:
        """Connections in use or being opened, and calls that wait for one."""
        return self.open_count - len(self._idle) + len(self._waiters)

    # Taking.

    def take(self) -> Http1Connection | None:
        """An idle connection, the one used last; None if there is none."""
        return self._idle.pop() if self._idle else None

    async def acquire(self) -> Http1Connection:
        """A connection, waited for in turn. Raises NoHealthyTarget, UpstreamUnreachable or UpstreamTimeout."""
        if self._closed:
            raise NoHealthyTarget(cause="The transport is closed")
        while True:
            uncovered = len(self._waiters) - self._wanted_dials
            if uncovered >= WAITERS_PER_CONNECTION * self._settings.connections_max:
                raise NoHealthyTarget(cause=f"The queue for a connection to {self.target.url} is full")
            waiter: Waiter = self._loop.create_future()
            self._waiters.append((waiter, self._loop.time() + self._settings.connection_wait_seconds))
            self._serve_queue()
            connection = await self._wait(waiter)
            if connection.open:
                return connection
            if not connection.used:
                raise UpstreamUnreachable(cause=f"{self.target.url} closes new connections", possibly_executed=False)

    async def acquire_fresh(self) -> Http1Connection:
        """A connection that nobody used before; the oldest idle one makes room for it if need be."""
        if self.open_count >= self._settings.connections_max:
            if not self._idle:
                return await self.acquire()
            self._idle[0].close("Made room")
        waiter: Waiter = self._loop.create_future()
        self._dial(waiter)
        connection = await self._wait(waiter)
        if not connection.open:
            raise UpstreamUnreachable(cause=f"{self.target.url} closes new connections", possibly_executed=False)
        return connection

    async def _wait(self, waiter: Waiter) -> Http1Connection:
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_back(waiter.result())
            else:
                self._leave_queue(waiter)
            raise

    def _leave_queue(self, waiter: Waiter) -> None:
        for entry in self._waiters:
            if entry[0] is waiter:
                self._waiters.remove(entry)
                break
        self._set_deadline()

    # What connections call.

    def give_back(self, connection: Http1Connection) -> None:
        """The connection is free and clean: the oldest waiter gets it, else it rests."""
        if not connection.open:
            return
        if self._outdated and connection in self._outdated:
            connection.close("The target's name has other addresses now")
            return
        if self._waiters and self._hand_over(connection):
            return
        if self._closed:
            connection.close("The transport is closed")
            return
        connection.rest()
        self._idle.append(connection)

    def forget(self, connection: Http1Connection) -> None:
        self.open_count -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        if self._waiters:
            self._serve_queue()

    def gone(self, connection: Http1Connection) -> None:
        self._connections.discard(connection)
        self._outdated.discard(connection)
        if self._emptied is not None and not self._connections and not self._emptied.done():
            self._emptied.set_result(None)

    def _hand_over(self, connection: Http1Connection) -> bool:
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                connection.deadline = NEVER
                waiter.set_result(connection)
                self._set_deadline()
                return True
        self._set_deadline()
        return False

    # Opening.

    def _serve_queue(self) -> None:
        """Open as many connections as the queue lacks and the limit lets."""
        while self._wanted_dials < len(self._waiters) and self.open_count < self._settings.connections_max:
            self._dial(None)
        self._set_deadline()

    def _dial(self, private: Waiter | None) -> None:
        """Open a connection: for the queue, or for one waiter outside it."""
        self.open_count += 1
        if private is None:
            self._wanted_dials += 1
        task = self._loop.create_task(self._open(private))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _open(self, private: Waiter | None) -> None:
        error: UpstreamError | None = None
        connection: Http1Connection | None = None
        try:
            connection = await self._connect()
        except UpstreamError as failure:
            error = failure
        except asyncio.CancelledError:
            error = NoHealthyTarget(cause="The transport is closed")
            raise
        except Exception as failure:  # noqa: BLE001 - whatever it is, the waiter must be told
            error = UpstreamUnreachable(cause=f"Connecting to {self.target.url}: {failure!r}", possibly_executed=False)
        finally:
            if private is None:
                self._wanted_dials -= 1
            if connection is None:
                self.open_count -= 1
            self._opened(connection, error, private)

    def _opened(self, connection: Http1Connection | None, error: UpstreamError | None, private: Waiter | None) -> None:
        """Tell whoever waits for it how the opening went. A failure is the oldest waiter's, the others try again."""
        if connection is not None:
            if private is None or private.done():
                self.give_back(connection)
            else:
                private.set_result(connection)
            return
        waiter = private
        while (waiter is None or (private is None and waiter.done())) and self._waiters:
            waiter, _ = self._waiters.popleft()
        if waiter is not None and not waiter.done() and error is not None:
            waiter.set_exception(error)
        if not self._closed:
            self._serve_queue()

    async def _connect(self) -> Http1Connection:
        """Open one connection, TLS included, within `connect_timeout_seconds`, to the first address that takes it."""
        target, settings = self.target, self._settings
        try:
            async with asyncio.timeout(settings.connect_timeout_seconds) as limit:
                connection = await self._connect_to_one(await self._addresses.in_order(), limit.when() or 0)
        except TimeoutError as error:
            raise UpstreamTimeout(cause=f"Connecting to {target.url} took too long", possibly_executed=False) from error
        except OSError as error:
            cause = f"Connecting to {target.url}: {type(error).__name__}: {error}"
            raise UpstreamUnreachable(cause=cause, possibly_executed=False) from error
        if connection.open:
            self._connections.add(connection)
        return connection

    async def _connect_to_one(self, addresses: list[str], until: float) -> Http1Connection:
        """Each address gets its part of the time: one that does not answer leaves some for the others."""
        while True:
            address = addresses.pop(0)
            if not addresses:
                return await self._create_connection(address)
            now = self._loop.time()
            try:
                async with asyncio.timeout_at(now + (until - now) / (len(addresses) + 1)):
                    return await self._create_connection(address)
            except OSError:
                self._addresses.has_failed(address)

    async def _create_connection(self, address: str) -> Http1Connection:
        target = self.target
        connection = Http1Connection(self, self._settings, self._deadlines, self._loop)
        connection.address = address
        server_name = (self._settings.tls.server_name or target.host) if self._tls else None
        protocol: Any = connection
        try:
            await self._loop.create_connection(
                lambda: protocol, address, target.port, ssl=self._tls, server_hostname=server_name
            )
        except BaseException:
            if connection.open:
                # Made in the very moment it was given up: closing it returns a place, so give it one of its own.
                self.open_count += 1
                connection.close("Given up while it was opened")
            raise
        return connection

    def _leave_others(self, addresses: frozenset[str]) -> None:
        """Connections to other addresses than these serve nobody any more, once they are free."""
        self._outdated = {connection for connection in self._connections if connection.address not in addresses}
        for connection in self._outdated.intersection(self._idle):
            connection.close("The target's name has other addresses now")

    # Time.

    def _set_deadline(self) -> None:
        """Waiters for whom a connection is being opened wait for that; the next one's time counts."""
        covered = self._wanted_dials
        self.deadline = self._waiters[covered][1] if len(self._waiters) > covered else NEVER

    def on_deadline(self, now: float) -> None:
        while len(self._waiters) > self._wanted_dials and self._waiters[self._wanted_dials][1] <= now:
            waiter, _ = self._waiters[self._wanted_dials]
            del self._waiters[self._wanted_dials]
            if not waiter.done():
                seconds = self._settings.connection_wait_seconds
                waiter.set_exception(NoHealthyTarget(cause=f"No connection to {self.target.url} in {seconds} s"))
        self._set_deadline()

    async def aclose(self) -> None:
        """Close every connection; whoever waits gets NoHealthyTarget, whoever reads UpstreamUnreachable."""
        self._closed = True
        await self._addresses.aclose()
        for task in self._dials:
            task.cancel()
        while self._waiters:
            waiter, _ = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(NoHealthyTarget(cause="The transport is closed"))
        await asyncio.gather(*self._dials, return_exceptions=True)
        for connection in tuple(self._connections):
            connection.abort("The transport is closed")
        if self._connections:
            self._emptied = self._loop.create_future()
            await self._emptied
        self._deadlines.unwatch(self)
