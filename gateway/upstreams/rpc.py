"""Small calls to a remote API over our own HTTP/1.1 client, apart from the upstreams: implements Wire.

The quick path, an idle connection and an answer that comes whole, makes no timer: the connection's own deadline bounds
it (gateway/deadlines.py). Everything else has a timer that fails the exchange when time is up. It does not cancel the
caller's task: so a cancellation always means that the caller leaves.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.config.tree import TlsSection, UpstreamSection
from gateway.deadlines import Deadlines
from gateway.errors import UpstreamError
from gateway.upstreams.http1_connection import Http1Connection
from gateway.upstreams.http1_response import Http1Response
from gateway.upstreams.pool import Pool
from gateway.upstreams.request_head import SMALL_BODY_BYTES, RequestHead
from gateway.upstreams.targets import Target
from gateway.upstreams.tls import client_context
from gateway.upstreams.transport import UpstreamRequest
from gateway.wire import Answer, Headers, Left, WireError

ANSWER_MAX_BYTES: Final = 1_048_576
HEAD_MAX_BYTES: Final = 65_536
HEADS_MAX: Final = 64
"""Heads kept ready, of different targets and headers."""
KEEP_ALIVE_SECONDS: Final = 8.0
"""A request on a connection that the other side is just closing is in doubt. Go's HTTP server, which answers at Unkey,
closes an idle connection after its ReadTimeout: 10 s there."""
TOLERANCE_SECONDS: Final = 0.15
"""A deadline is met up to a tick (0.1 s) late; the caller's is not."""
TOTAL_SECONDS_MAX: Final = 86_400.0
"""For the limits of connection and pool that the deadline of each call makes superfluous."""


class RpcClient:
    """Implements Wire. Runs on one event loop, uvloop for speed.

    Environment and proxies are not looked at. Raises ValueError or OSError at once for a URL or `ca_file` that can't be
    used.
    """

    def __init__(
        self,
        url: str,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
        *,
        connections_max: int = 256,
        connect_timeout_seconds: float = 2,
        keep_alive_timeout_seconds: float = KEEP_ALIVE_SECONDS,
        tls: TlsSection | None = None,
    ) -> None:
        target = Target(url)
        settings = UpstreamSection(
            targets=(url,),
            connections_max=connections_max,
            connect_timeout_seconds=connect_timeout_seconds,
            connection_wait_seconds=TOTAL_SECONDS_MAX,
            response_timeout_seconds=TOTAL_SECONDS_MAX,
            keep_alive_timeout_seconds=keep_alive_timeout_seconds,
            response_head_max_bytes=HEAD_MAX_BYTES,
            tls=tls or TlsSection(),
        )
        context = None
        if target.tls:
            context = client_context(settings.tls)
            context.set_alpn_protocols(["http/1.1"])
        self._loop = loop
        self._pool = Pool(target, settings, context, deadlines, loop)
        self._head = RequestHead(target)
        self._heads: dict[tuple[bytes | tuple[bytes, bytes], ...], bytes] = {}
        # Its bytes are written with the head: all that a connection must know of it is the method.
        self._request = UpstreamRequest(b"POST", b"", [])

    async def post(
        self, target: bytes, headers: Headers, body: bytes, timeout_seconds: float, left: Left | None = None
    ) -> Answer:
        """See Wire.post."""
        now = self._loop.time()
        deadline = now + timeout_seconds - (TOLERANCE_SECONDS if timeout_seconds > 0.3 else timeout_seconds / 2)
        head = self._heads.get((target, *headers)) or self._write_head(target, headers)
        message = b"%b%d\r\n\r\n%b" % (head, len(body), body)
        connection = self._take(now)
        if connection is None or len(message) > SMALL_BODY_BYTES:
            return await self._post_slowly(connection, message, deadline, left)
        response = connection.start(self._request, message)
        connection.deadline = deadline
        try:
            await response.waiter  # type: ignore[misc]
        except asyncio.CancelledError:
            self._leave(_Exchange(response), deadline, left)
            raise
        if response.body is not None:
            return _answer(response, response.body)
        if response.unsent:
            return await self._post_slowly(None, message, deadline, left, fresh=True)
        return await self._finish(_Exchange(response), deadline, left)

    async def get(self, target: bytes, headers: Headers, timeout_seconds: float) -> Answer:
        """See Wire.get."""
        now = self._loop.time()
        fields = [*headers, (b"accept-encoding", b"identity")]
        message = self._head.write(UpstreamRequest(b"GET", target, fields))
        return await self._post_slowly(self._take(now), message, now + timeout_seconds, None)

    def count_connections(self) -> tuple[int, int, int]:
        """See Wire.count_connections."""
        pool = self._pool
        return pool.open_count, pool.idle_count, pool.waiting_count

    async def aclose(self) -> None:
        """See Wire.aclose."""
        await self._pool.aclose()

    def _write_head(self, target: bytes, headers: Headers) -> bytes:
        """The head up to the body's length. Raises InternalError for what could split it."""
        fields = [*headers, (b"accept-encoding", b"identity")]
        head = self._head.write(UpstreamRequest(b"POST", target, fields)).removesuffix(b"0\r\n\r\n")
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        self._heads[(target, *headers)] = head
        return head

    def _take(self, now: float) -> Http1Connection | None:
        """An idle connection. One that a stalled process kept beyond its time is not to be trusted."""
        pool = self._pool
        connection = pool.take()
        while connection is not None and connection.deadline <= now:
            connection.close("Idle for the keep-alive time")
            connection = pool.take()
        return connection

    # The slow path.

    async def _post_slowly(
        self,
        connection: Http1Connection | None,
        message: bytes,
        deadline: float,
        left: Left | None,
        *,
        fresh: bool = False,
    ) -> Answer:
        """Wait for a connection, or for a `fresh` one; send, and read the answer as it comes."""
        if connection is None:
            connection = await self._acquire(deadline, fresh=fresh)
        response = connection.start(self._request, message)
        connection.deadline = deadline
        try:
            return await self._finish(_Exchange(response), deadline, left)
        except WireError:
            if not response.unsent or fresh:
                raise
        return await self._post_slowly(None, message, deadline, left, fresh=True)

    async def _acquire(self, deadline: float, *, fresh: bool) -> Http1Connection:
        pool = self._pool
        try:
            async with asyncio.timeout_at(deadline):
                return await (pool.acquire_fresh() if fresh else pool.acquire())
        except TimeoutError as error:
            raise WireError(f"No connection to {pool.target.url} in time", possibly_executed=False) from error
        except UpstreamError as error:
            raise WireError(error.cause, possibly_executed=False) from error

    async def _finish(self, exchange: _Exchange, deadline: float, left: Left | None) -> Answer:
        timer = self._loop.call_at(deadline, exchange.expire)
        try:
            return await exchange.read()
        except asyncio.CancelledError:
            self._leave(exchange, deadline, left)
            raise
        finally:
            timer.cancel()

    def _leave(self, exchange: _Exchange, deadline: float, left: Left | None) -> None:
        """The caller has gone. What has arrived meanwhile is in the exchange, also if it came in this very turn."""
        if left is None or exchange.response.unsent:
            exchange.response.abandon()
        else:
            left(self._finish(exchange, deadline, None))


class _Exchange:
    """A request that was sent, and what has come back so far. It outlives whoever waits for it."""

    __slots__ = ("_byte_count", "_parts", "response")

    def __init__(self, response: Http1Response) -> None:
        self.response = response
        self._parts: list[bytes] = []
        self._byte_count = 0

    async def read(self) -> Answer:
        response = self.response
        while True:
            self._gather()
            if response.error is not None:
                raise _translated(response) from response.error
            if response.ended:
                return _answer(response, b"".join(self._parts))
            waiter = response.waiter
            if waiter is None or waiter.done():
                response.waiter = waiter = asyncio.get_running_loop().create_future()
            await waiter

    def expire(self) -> None:
        connection = self.response.connection
        if connection is not None:
            connection.close("The answer did not come whole in time")

    def _gather(self) -> None:
        """Take what has arrived, so that the connection reads on."""
        response = self.response
        parts, response.chunks, response.buffered_bytes = response.chunks, [], 0
        self._parts += parts
        self._byte_count += sum(map(len, parts))
        if self._byte_count > ANSWER_MAX_BYTES:
            response.abandon()
            raise WireError(f"The answer has more than {ANSWER_MAX_BYTES} bytes", possibly_executed=True)
        if response.connection is not None:
            response.connection.resume_reading()


def _answer(response: Http1Response, body: bytes) -> Answer:
    retry_after: int | None = None
    for name, value in response.headers:
        if name == b"retry-after":
            retry_after = int(value) if value.isdigit() and len(value) < 10 else None
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise WireError("The answer is encoded, which nobody asked for", possibly_executed=True)
    return Answer(response.status, retry_after, body)


def _translated(response: Http1Response) -> WireError:
    error = response.error
    cause = error.cause if isinstance(error, UpstreamError) else repr(error)
    return WireError(cause, possibly_executed=not response.unsent)
