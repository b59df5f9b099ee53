"""The hot path to an upstream: HTTP/1.1 over pooled connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.upstreams.pool import Pool
from gateway.upstreams.request_head import RequestHead
from gateway.upstreams.targets import RoundRobin, Target
from gateway.upstreams.tls import client_context

if TYPE_CHECKING:
    from gateway.config.tree import UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.upstreams.http1_response import Http1Response
    from gateway.upstreams.transport import UpstreamRequest

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods whose request may be sent twice (RFC 9110 section 9.2.2)."""


class Destination:
    """A target with what belongs to it: its connections and its request heads."""

    __slots__ = ("head", "pool")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.head = RequestHead(pool.target)


class Http1Transport:
    """Implements Transport with our own client. Runs on one event loop, uvloop for speed.

    Raises ValueError or OSError at once for targets or a `ca_file` that can't be used.
    """

    def __init__(
        self, name: str, settings: UpstreamSection, deadlines: Deadlines, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.name = name
        targets = [Target(url) for url in settings.targets]
        tls = None
        if any(target.tls for target in targets):
            tls = client_context(settings.tls)
            tls.set_alpn_protocols(["http/1.1"])
        self.pools = tuple(Pool(target, settings, tls, deadlines, loop) for target in targets)
        self._destinations = RoundRobin([Destination(pool) for pool in self.pools])

    async def send(self, request: UpstreamRequest) -> Http1Response:
        """See Transport.send.

        A reused connection may be closed by the upstream while the request is on its way (RFC 9112 section 9.3.1).
        Such a request is sent once more, on a fresh connection, if it can't have been executed or may be twice.
        """
        destination = self._destinations.choose()
        head = destination.head.write(request)
        pool = destination.pool
        connection = pool.take() or await pool.acquire()
        response = connection.start(request, head)
        try:
            await response.waiter  # type: ignore[misc]
            if response.stale and _may_repeat(request, response):
                connection = await pool.acquire_fresh()
                response = connection.start(request, head)
                await response.waiter  # type: ignore[misc]
        except asyncio.CancelledError:
            response.abandon()
            raise
        if response.error is not None:
            raise response.error
        if response.body is None:
            response.streaming = True
        return response

    def count_connections(self) -> tuple[int, int, int]:
        """See Transport.count_connections."""
        pools = self.pools
        return (
            sum(pool.open_count for pool in pools),
            sum(pool.idle_count for pool in pools),
            sum(pool.waiting_count for pool in pools),
        )

    async def aclose(self) -> None:
        for pool in self.pools:
            await pool.aclose()


def _may_repeat(request: UpstreamRequest, response: Http1Response) -> bool:
    """`unsent`: not one byte went out. Else the method must bear it and the body must still be there."""
    return response.unsent or (request.method in IDEMPOTENT and type(request.body) is bytes)
