"""An answer over HTTP/1.1: what has arrived of it, and who waits for more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.errors import UpstreamUnreachable

if TYPE_CHECKING:
    from gateway.upstreams.http1_connection import Http1Connection
    from gateway.upstreams.transport import Headers


class Http1Response:
    """Implements UpstreamResponse; filled by ResponseParser, woken by Http1Connection.

    `connection` is None once the answer has all its bytes or has failed: the connection then serves others, while
    the chunks not yet read stay here. `waiter` is the one future somebody waits on, first for the head, then in
    `read`. `error` is why no more comes. `stale`: a reused connection closed before a byte of the answer; `unsent`: and
    before a byte of the request was written.
    """

    __slots__ = (
        "body",
        "buffered_bytes",
        "chunks",
        "connection",
        "content_length",
        "ended",
        "error",
        "headers",
        "stale",
        "status",
        "streaming",
        "trailers",
        "unsent",
        "waiter",
    )

    status: int
    headers: Headers
    content_length: int | None

    def __init__(self, connection: Http1Connection | None, waiter: asyncio.Future[None] | None) -> None:
        self.connection = connection
        self.waiter = waiter
        self.body: bytes | None = None
        self.trailers: Headers = []
        self.chunks: list[bytes] = []
        self.buffered_bytes = 0
        self.ended = False
        self.streaming = False
        self.stale = False
        self.unsent = False
        self.error: Exception | None = None

    async def read(self) -> bytes:
        self.streaming = True
        while True:
            chunks = self.chunks
            if chunks:
                data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                self.chunks = []
                self.buffered_bytes = 0
                if self.connection is not None:
                    self.connection.resume_reading()
                return data
            if self.error is not None:
                raise self.error
            if self.ended:
                return b""
            self.waiter = asyncio.get_running_loop().create_future()
            try:
                await self.waiter
            except asyncio.CancelledError:
                self.abandon()
                raise

    async def write(self, chunk: bytes) -> None:
        if self.connection is None:
            raise self.error or UpstreamUnreachable(cause="The upstream has closed the tunnel")
        await self.connection.write(chunk)

    async def aclose(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Nobody wants the rest: a connection still in use is closed."""
        self.chunks = []
        self.buffered_bytes = 0
        if self.connection is not None:
            self.connection.abandon()

    # What Http1Connection calls.

    def complete(self) -> None:
        """All bytes are here. The body is whole in `body` if nobody has begun to stream it."""
        self.connection = None
        self.ended = True
        if not self.streaming:
            chunks = self.chunks
            self.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.wake()

    def fail(self, error: Exception) -> None:
        self.connection = None
        self.error = error
        self.wake()

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)
