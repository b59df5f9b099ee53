"""The stand-in's side of HTTP/1.1: requests read by httptools, answers written as raw bytes.

Raw, because a stand-in must be able to do what no web framework allows: wrong lengths, resets, half messages, trailers.
A task per connection answers its requests one after the other; it is cancelled when the peer leaves, so that a stalled
answer ends with its caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

BODY_MAX_BYTES = 1 << 20
PHRASES = {status.value: status.phrase for status in HTTPStatus}
QUEUE_MAX = 64
"""Pipelined requests waiting for their turn on one connection."""


class Request:
    """One request, read whole. Header names are in lower case; of a repeated field the last value counts."""

    __slots__ = ("body", "headers", "keep_alive", "method", "target", "too_large", "version")

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.version = "1.1"
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.too_large = False
        self.keep_alive = True

    @property
    def path(self) -> str:
        """The target without its query, undecoded."""
        return self.target.partition(b"?")[0].decode("latin-1")


Answer = Callable[[Request, "Connection"], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One connection of a caller. `answer` is awaited for each request and writes its response here."""

    def __init__(self, answer: Answer, connections: set[Connection]) -> None:
        self._answer = answer
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._reading = Request()
        self._waiting: deque[Request] = deque()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast: uvloop's transports have every method of asyncio.Transport but don't inherit from it.
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, _: Exception | None) -> None:
        self._connections.discard(self)
        self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.write(response(400, b'{"error":{"code":"bad_http"}}', {"Connection": "close"}))
            self._transport.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._reading = Request()

    def on_url(self, target: bytes) -> None:
        self._reading.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        # A method is known once the head is: what comes later is a trailer, and no header (RFC 9110 section 6.5.1).
        if not self._reading.method:
            self._reading.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._reading.method = self._parser.get_method().decode("ascii")
        self._reading.version = self._parser.get_http_version()
        if self._reading.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._reading.too_large |= len(self._reading.body) + len(data) > BODY_MAX_BYTES
        if not self._reading.too_large:
            self._reading.body += data

    def on_message_complete(self) -> None:
        self._reading.keep_alive = self._parser.should_keep_alive()
        self._waiting.append(self._reading)
        self._arrived.set()
        if len(self._waiting) == QUEUE_MAX:
            self._transport.pause_reading()

    # What the answers call.

    async def write(self, data: bytes) -> None:
        """Send bytes, waiting while the peer takes none."""
        self._transport.write(data)
        await self._writable.wait()

    def close(self) -> None:
        """Close after what was written."""
        self._transport.close()

    def reset(self) -> None:
        """Close with RST, dropping what was not sent."""
        peer: socket.socket | None = self._transport.get_extra_info("socket")
        if peer is not None:
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def closed(self) -> bool:
        return self._transport.is_closing()

    async def aclose(self) -> None:
        """Break off whatever is being answered."""
        self._transport.abort()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while not self.closed():
                request = await self._next()
                await self._answer(request, self)
                if not request.keep_alive:
                    break
        finally:
            self._transport.close()

    async def _next(self) -> Request:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        if len(self._waiting) == QUEUE_MAX:
            self._transport.resume_reading()
        return self._waiting.popleft()


def head(status: int, headers: dict[str, str]) -> bytes:
    """Status line and header fields, with the Date that every origin owes (RFC 9110 section 6.6.1)."""
    lines = [f"HTTP/1.1 {status} {PHRASES.get(status, 'Failed')}", f"Date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def response(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole JSON response."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    return head(status, fields) + body


def chunk(data: bytes, lie_bytes: int = 0) -> bytes:
    """One chunk of a chunked body (RFC 9112 section 7.1); its size is wrong by `lie_bytes`."""
    return b"%x\r\n%b\r\n" % (max(1, len(data) + lie_bytes), data)


def last_chunk(trailers: dict[str, str]) -> bytes:
    """The end of a chunked body, with its trailer fields."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in trailers.items())
    return b"0\r\n%b\r\n" % lines.encode("latin-1")
