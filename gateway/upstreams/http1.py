"""The hot path to a target: HTTP/1.1 over pooled connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.errors import UpstreamError
from gateway.upstreams.pool import Pool
from gateway.upstreams.request_head import RequestHead
from gateway.upstreams.transport import IDEMPOTENT

if TYPE_CHECKING:
    import ssl

    from gateway.config.tree import UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.upstreams.http1_response import Http1Response
    from gateway.upstreams.targets import Target
    from gateway.upstreams.transport import UpstreamRequest


class Http1Transport:
    """Implements TargetTransport with our own client. Runs on one event loop, uvloop for speed."""

    __slots__ = ("_head", "pool")

    def __init__(
        self,
        target: Target,
        settings: UpstreamSection,
        tls: ssl.SSLContext | None,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.pool = Pool(target, settings, tls, deadlines, loop)
        self._head = RequestHead(target)

    @property
    def load(self) -> int:
        """See TargetTransport.load."""
        return self.pool.load

    async def send(self, request: UpstreamRequest) -> Http1Response:
        """See Transport.send.

        A reused connection may be closed by the upstream while the request is on its way (RFC 9112 section 9.3.1).
        Such a request is sent once more, on a fresh connection, if it can't have been executed or may be twice.
        """
        head = self._head.write(request)
        pool = self.pool
        connection = pool.take() or await pool.acquire()
        response = connection.start(request, head)
        try:
            await response.waiter  # type: ignore[misc]
            if response.stale and _may_repeat(request, response):
                response = await self._repeat(request, head, response)
                await response.waiter  # type: ignore[misc]
        except asyncio.CancelledError:
            response.abandon()
            raise
        if response.error is not None:
            raise response.error
        if response.body is None:
            response.streaming = True
        return response

    async def _repeat(self, request: UpstreamRequest, head: bytes, stale: Http1Response) -> Http1Response:
        try:
            connection = await self.pool.acquire_fresh()
        except UpstreamError as error:
            error.possibly_executed = not stale.unsent
            raise
        return connection.start(request, head)

    def count_connections(self) -> tuple[int, int, int]:
        """See Transport.count_connections."""
        pool = self.pool
        return pool.open_count, pool.idle_count, pool.waiting_count

    async def aclose(self) -> None:
        await self.pool.aclose()


def _may_repeat(request: UpstreamRequest, response: Http1Response) -> bool:
    """`unsent`: not one byte went out. Else the method must bear it and the body must still be there."""
    return response.unsent or (request.method in IDEMPOTENT and type(request.body) is bytes)
