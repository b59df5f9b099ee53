"""An answer over httpx, between the task that owns it and the caller that reads it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from gateway.deadlines import NEVER
from gateway.errors import BadUpstreamResponse, UpstreamTimeout, UpstreamUnreachable

if TYPE_CHECKING:
    import httpcore

    from gateway.upstreams.transport import Headers, UpstreamRequest

BUFFERED_BYTES_MAX = 65_536
"""Response bytes kept for a slow reader before the owner stops reading."""

CONNECTED = frozenset({"connection.connect_tcp.complete", "connection.start_tls.complete", "proxy.start_tls.complete"})
"""Events of httpcore's `trace` that bring the connection's stream, the outermost last."""

BODY_STARTED = frozenset({"http11.send_request_body.started", "http2.send_request_body.started"})
BODY_COMPLETE = frozenset({"http11.send_request_body.complete", "http2.send_request_body.complete"})
"""They come without a body too; and for a proxy's CONNECT, which is not the request."""


class HttpxResponse:
    """Implements UpstreamResponse. One side is the caller's (`wait_head`, `read`, `aclose`), the other the owner's.

    The two meet in plain attributes and two futures. A caller who leaves only says so: the owner sees it and ends
    httpx's response in its own time. `deadline` is the caller's wait for the head; `body_error` is what the caller's
    own iterator raised, to be told as it is.
    """

    __slots__ = (
        "_buffered_bytes",
        "_chunks",
        "_ended",
        "_error",
        "_has_head",
        "_is_connect",
        "_loop",
        "_reader",
        "_request",
        "_room",
        "_stream",
        "abandoned",
        "body",
        "body_error",
        "content_length",
        "deadline",
        "headers",
        "status",
        "trailers",
    )

    status: int
    headers: Headers
    content_length: int | None

    def __init__(self, request: UpstreamRequest, loop: asyncio.AbstractEventLoop) -> None:
        self._request = request
        self._is_connect = False
        self._loop = loop
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._has_head = False
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._stream: httpcore.AsyncNetworkStream | None = None
        self.abandoned = False
        self.body_error: Exception | None = None
        self.body: bytes | None = None
        self.trailers: Headers = []
        self.deadline = NEVER

    # The caller's side.

    async def wait_head(self) -> None:
        """Return once the head is here; raises what went wrong before it."""
        while not self._has_head and self._error is None:
            await self._wait_for_owner()
        if self._error is not None:
            raise self._error

    async def read(self) -> bytes:
        while True:
            if self._chunks:
                data = b"".join(self._chunks)
                self._chunks.clear()
                self._buffered_bytes = 0
                _wake(self._room)
                return data
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._wait_for_owner()

    async def write(self, chunk: bytes) -> None:
        raise BadUpstreamResponse(cause=f"No tunnel over httpx for {len(chunk)} bytes")

    async def aclose(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        """Nobody wants the rest. The owner is told, and its socket ends so that it need not wait for bytes."""
        if self._ended or self.abandoned:
            return
        self.abandoned = True
        self._chunks.clear()
        self._error = self._error or UpstreamUnreachable(cause="The exchange was given up")
        _wake(self._room)
        self.shut_down()

    def on_deadline(self, now: float) -> None:
        """The head did not come in time (gateway.deadlines.Expiring)."""
        del now
        self.deadline = NEVER
        if not self._has_head:
            self.fail(UpstreamTimeout(cause="The response's head did not come in time"))
            self.abandon()

    async def _wait_for_owner(self) -> None:
        self._reader = self._loop.create_future()
        try:
            await self._reader
        except asyncio.CancelledError:
            self.abandon()
            raise

    # The owner's side.

    async def trace(self, event: str, told: dict[str, Any]) -> None:
        """httpcore's `trace` extension: the one way to learn what happens before the head is here."""
        if event in CONNECTED:
            self._stream = told["return_value"]
            if self.abandoned:
                self.shut_down()
        elif event in BODY_STARTED:
            self._is_connect = told["request"].method == b"CONNECT"
        elif event in BODY_COMPLETE and not self._is_connect:
            self._request.is_sent = True

    def shut_down(self) -> None:
        """End the connection's socket, unless it is shared."""
        if self._stream is not None:
            _shut_down(self._stream)

    def start(self, status: int, headers: Headers, content_length: int | None) -> None:
        self.status = status
        self.headers = headers
        self.content_length = content_length
        self.deadline = NEVER
        self._has_head = True
        _wake(self._reader)

    async def put(self, chunk: bytes) -> bool:
        """Pass bytes on; waits while a slow reader has enough of them. False: nobody wants more."""
        self._chunks.append(chunk)
        self._buffered_bytes += len(chunk)
        _wake(self._reader)
        while self._buffered_bytes > BUFFERED_BYTES_MAX and not self.abandoned:
            self._room = self._loop.create_future()
            await self._room
        return not self.abandoned

    def end(self) -> None:
        self._ended = True
        _wake(self._reader)

    def fail(self, error: Exception) -> None:
        self._error = self._error or error
        _wake(self._reader)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _shut_down(stream: httpcore.AsyncNetworkStream) -> None:
    """End an HTTP/1.1 connection's socket under its owner, who finds it closed. HTTP/2 shares its socket."""
    tls = stream.get_extra_info("ssl_object")
    raw = stream.get_extra_info("socket")
    if raw is None or raw.fileno() < 0 or (tls is not None and tls.selected_alpn_protocol() == "h2"):
        return
    try:
        # The loop's own object may not be shut down, a copy of its descriptor may.
        with socket.fromfd(raw.fileno(), socket.AF_INET, socket.SOCK_STREAM) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already
