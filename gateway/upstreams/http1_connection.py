"""One connection to a target: writes a request, reads its answer, and knows when it may serve again.

States: idle (`_response` is None, in the pool), busy (a response is being waited for or read), closed. Leaving busy
for idle happens in one place, `_finish`, and only if the whole request was sent, the whole response was read and
nothing came behind it. Everything else ends in `_shut`, once.

One float, `deadline`, is watched for whatever the connection waits for (gateway/deadlines.py).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from gateway.deadlines import NEVER
from gateway.errors import BadUpstreamResponse, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from gateway.upstreams.http1_response import Http1Response
from gateway.upstreams.request_body import send_framed
from gateway.upstreams.request_head import SMALL_BODY_BYTES
from gateway.upstreams.response_parser import BODY, COMPLETE, HEAD, TUNNEL, ResponseParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.config.tree import UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.upstreams.transport import UpstreamRequest

BUFFERED_BYTES_MAX = 65_536
"""Response bytes kept for a slow reader before reading from the upstream pauses."""


class Owner(Protocol):
    """Who is told about a connection's life: the pool."""

    def give_back(self, connection: Http1Connection) -> None:
        """It is idle and clean."""

    def forget(self, connection: Http1Connection) -> None:
        """It is closed: its place is free."""

    def gone(self, connection: Http1Connection) -> None:
        """Its socket is closed too."""


class Http1Connection:
    """An asyncio.Protocol in all but name (see gateway/server/connection.py)."""

    __slots__ = (
        "_deadlines",
        "_idle_seconds",
        "_keep_alive_seconds",
        "_loop",
        "_owner",
        "_parser",
        "_reading_paused",
        "_request",
        "_request_sent",
        "_response",
        "_response_seconds",
        "_sender",
        "_transport",
        "_unwritten_bytes",
        "_writable",
        "_writing_paused",
        "address",
        "deadline",
        "open",
        "used",
    )

    _transport: asyncio.Transport

    def __init__(
        self, owner: Owner, settings: UpstreamSection, deadlines: Deadlines, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._owner = owner
        self._deadlines = deadlines
        self._loop = loop
        self._response_seconds = settings.response_timeout_seconds
        self._idle_seconds = settings.idle_timeout_seconds
        self._keep_alive_seconds = settings.keep_alive_timeout_seconds
        self._parser = ResponseParser(settings.response_head_max_bytes)
        self._response: Http1Response | None = None
        self._sender: asyncio.Task[None] | None = None
        self._request: UpstreamRequest | None = None
        self._request_sent = True
        self._reading_paused = False
        self._writing_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._unwritten_bytes = 0
        self.address = ""
        self.deadline = NEVER
        self.open = False
        self.used = False

    # What the pool and the transport call.

    def rest(self) -> None:
        """Idle from now on."""
        self.deadline = self._loop.time() + self._keep_alive_seconds

    def start(self, request: UpstreamRequest, head: bytes) -> Http1Response:
        """Write the request; `head` has a small body behind it. The response's waiter is done with its head."""
        loop = self._loop
        self._response = response = Http1Response(self, loop.create_future())
        self._parser.expect(response, is_head=request.method == b"HEAD", upgrade=request.upgrade)
        transport = self._transport
        transport.write(head)
        if transport.is_closing():
            # The peer had closed before: the very first write failed, and connection_lost is on its way.
            response.unsent = True
            return response
        body = request.body
        if type(body) is not bytes:
            self._request, self._request_sent = request, False
            self.deadline = loop.time() + self._idle_seconds
            self._sender = loop.create_task(self._send_body(request))
        else:
            if len(body) > SMALL_BODY_BYTES:
                transport.write(body)
            if self._writing_paused:
                self._request, self._request_sent = request, False
                self._unwritten_bytes = transport.get_write_buffer_size()
                self.deadline = loop.time() + self._idle_seconds
            else:
                request.is_sent = True
                self.deadline = loop.time() + self._response_seconds
        return response

    def abandon(self) -> None:
        self._shut(UpstreamUnreachable(cause="The exchange was given up"))

    def close(self, cause: str) -> None:
        self._shut(UpstreamUnreachable(cause=cause))

    def abort(self, cause: str) -> None:
        """Close without waiting for the peer or for bytes still to be written."""
        self.close(cause)
        self._transport.abort()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.deadline = self._loop.time() + self._idle_seconds
            self._transport.resume_reading()

    async def write(self, chunk: bytes) -> None:
        """Bytes into the tunnel, with back-pressure."""
        if self._parser.state != TUNNEL:
            raise BadUpstreamResponse(cause="The connection is not a tunnel")
        self._transport.write(chunk)
        self.deadline = self._loop.time() + self._idle_seconds
        if self._writing_paused:
            await self._wait_writable()
            if not self.open:
                raise UpstreamUnreachable(cause="The tunnel was closed while it was written to")

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.open = True
        self._deadlines.watch(self)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            if self.open:
                self.close("The upstream sent bytes that nobody asked for")
            return
        parser = self._parser
        state = parser.state
        if state == TUNNEL:
            self._tunnel(response, data)
            return
        try:
            behind = parser.feed(data)
        except UpstreamError as error:
            self._shut(error)
            return
        state_now = parser.state
        if state_now == COMPLETE:
            self._finish(response)
        elif state_now == BODY:
            self._progress(response, woken=state == HEAD)
        elif state_now == TUNNEL:
            self._tunnel(response, behind)
            response.wake()

    def eof_received(self) -> None:
        response = self._response
        if response is None or (self._parser.state == HEAD and not self._parser.started):
            self._shut(self._closed_early(None))
            return
        try:
            self._parser.feed_eof()
        except UpstreamError as error:
            self._shut(error)
            return
        self._finish(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut(self._closed_early(exc))
        self._deadlines.unwatch(self)
        self._owner.gone(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._sender is None and not self._request_sent:
            self._mark_sent()
        self._wake_writer()

    def on_deadline(self, now: float) -> None:
        if not self.open:
            self.deadline = NEVER
            self._transport.abort()
        elif self._response is None:
            self.close("Idle for the keep-alive time")
        elif self._writing_moves():
            self.deadline = now + self._idle_seconds
        else:
            self._shut(UpstreamTimeout(cause=self._late_for()))

    # Reading.

    def _progress(self, response: Http1Response, *, woken: bool) -> None:
        if response.buffered_bytes > BUFFERED_BYTES_MAX:
            self._reading_paused = True
            self._transport.pause_reading()
            self.deadline = NEVER
        else:
            self.deadline = self._loop.time() + self._idle_seconds
        if woken or response.chunks:
            response.wake()

    def _tunnel(self, response: Http1Response, data: bytes) -> None:
        if data:
            response.chunks.append(data)
            response.buffered_bytes += len(data)
        self._progress(response, woken=False)

    def _finish(self, response: Http1Response) -> None:
        """The answer has ended."""
        reusable = self._parser.reusable and self._request_sent and self.open
        self._response = None
        response.complete()
        if reusable:
            self.used = True
            self._owner.give_back(self)
        else:
            self.close("Not to be reused")

    # Writing.

    async def _send_body(self, request: UpstreamRequest) -> None:
        """Stream the body; whatever fails in it ends the exchange without the body's end."""
        body = cast("AsyncIterator[bytes]", request.body)
        try:
            await send_framed(body, request.content_length, self._write_piece)
        except Exception as error:  # noqa: BLE001 - the iterator is the caller's: its errors are for the caller
            self._sender = None
            self._shut(error)
        else:
            self._sender = None
            self._mark_sent()

    async def _write_piece(self, piece: tuple[bytes, ...]) -> None:
        self._transport.writelines(piece)
        self._unwritten_bytes = self._transport.get_write_buffer_size()
        if not self._reading_paused:
            self.deadline = self._loop.time() + self._idle_seconds
        if self._writing_paused:
            await self._wait_writable()

    async def _wait_writable(self) -> None:
        self._writable = self._loop.create_future()
        await self._writable

    def _wake_writer(self) -> None:
        writable = self._writable
        self._writable = None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def _mark_sent(self) -> None:
        """The last byte has left: from here the time to the response's head counts."""
        self._request_sent = True
        if self._request is not None:
            self._request.is_sent = True
            self._request = None  # an idle connection must not keep the last body alive
        if self._parser.state == HEAD:
            self.deadline = self._loop.time() + self._response_seconds

    def _writing_moves(self) -> bool:
        """Has the upstream taken bytes of the request since the last look?"""
        left = self._transport.get_write_buffer_size()
        moves = not self._request_sent and left < self._unwritten_bytes
        self._unwritten_bytes = left
        return moves

    # Ending.

    def _shut(self, error: Exception) -> None:
        """Close, now. A response under way fails with `error`; the place in the pool is free at once."""
        if not self.open:
            return
        self.open = False
        response, self._response = self._response, None
        tunnel = self._parser.state == TUNNEL
        self._parser.close()
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
        self._close_transport(graceful=response is None or tunnel)
        self._wake_writer()
        if response is not None:
            response.fail(error)
        self._owner.forget(self)

    def _close_transport(self, *, graceful: bool) -> None:
        if graceful:
            # Bytes still to be written get their chance, but not for ever.
            self.deadline = self._loop.time() + self._idle_seconds
            self._transport.close()
        else:
            self.deadline = NEVER
            self._transport.abort()

    def _closed_early(self, exc: Exception | None) -> UpstreamError:
        """Why the connection is gone, when it was not us."""
        cause = f"{type(exc).__name__}: {exc}" if exc is not None else "The upstream closed the connection"
        response = self._response
        if response is None:
            return UpstreamUnreachable(cause=cause)
        if self._parser.state != HEAD:
            return BadUpstreamResponse(cause=f"{cause} within the response's body")
        if not self._parser.started:
            response.stale = self.used
            return UpstreamUnreachable(cause=cause, possibly_executed=not response.unsent)
        return UpstreamUnreachable(cause=f"{cause} within the response's head")

    def _late_for(self) -> str:
        if not self._request_sent:
            return "The upstream took no byte of the request, or its body did not go on, for the idle time"
        if self._parser.state == HEAD:
            return "The response's head did not come in time"
        return "The response's body or the tunnel was silent for the idle time"
