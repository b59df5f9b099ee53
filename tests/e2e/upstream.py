"""An upstream that counts, and keeps every byte it gets.

The last segment of a request's path says what it does: ok, missing (404), fail (503), slow, hang, reset, stream,
events, told. It runs in a thread with a loop of its own; what it has counted may be read from any thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

import uvloop

BODY = b'{"persona":"Ada"}'
TOLD = 2
"""What the trailer of `told` says the call costs."""


@dataclass
class Seen:
    """A request as it arrived. Header names in lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def get(self, name: str) -> str:
        values = self.all(name)
        return values[0] if values else ""

    @property
    def request_id(self) -> str:
        return self.get("x-request-id")

    @property
    def what(self) -> str:
        return self.target.partition("?")[0].rpartition("/")[2]


class Recorder(asyncio.StreamReader):
    """Keeps a copy of what arrives, before anybody makes sense of it."""

    record: bytearray

    def feed_data(self, data: bytes) -> None:
        self.record += data
        super().feed_data(data)


class Upstream:
    """Listens on a free port of 127.0.0.1.

    `arrived` counts requests by request id; `answered` those whose answer was usable (a head below 500), counted
    before its first byte goes out; `finished` those whose usable answer was written to the end; `failed` says of the
    others what was done to them.
    """

    def __init__(self) -> None:
        self.arrived: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        self.seen: list[Seen] = []
        self.connections: list[bytearray] = []
        self.slow_seconds = 0.2
        self.pause_seconds = 0.02
        self.chunks = 10
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)
        self._behaviours: dict[str, Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]] = {
            "missing": self._missing,
            "fail": self._fail,
            "slow": self._slow,
            "reset": self._reset,
            "stream": self._stream,
            "events": self._stream,
            "told": self._told,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bytes(self) -> bytes:
        """Every byte of every connection."""
        return b"\n".join(bytes(connection) for connection in self.connections)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await self._loop.create_server(self._accept, "127.0.0.1", 0, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> asyncio.StreamReaderProtocol:
        reader = Recorder()
        reader.record = bytearray()
        self.connections.append(reader.record)
        return asyncio.StreamReaderProtocol(reader, self._connected)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                await self._serve_one(reader, writer)
        except (OSError, EOFError, ValueError, RuntimeError, asyncio.LimitOverrunError):
            pass  # The gateway has gone, or sent what is no request: the recorded bytes tell.
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = line.split(" ")
        pairs = [field.partition(":") for field in fields]
        headers = tuple((name.lower(), value.strip()) for name, _, value in pairs)
        request = Seen(method, target, headers)
        self.arrived[request.request_id] += 1
        self.seen.append(request)
        request.body = await _read_body(reader, request)
        if request.what == "hang":
            self.failed[request.request_id] = "hang"
            await reader.read()  # until the gateway gives up
            raise EOFError
        await self._behaviours.get(request.what, self._ok)(request, writer)
        await writer.drain()

    async def _ok(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        self.answered[request.request_id] += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        writer.write(b"" if request.method == "HEAD" else BODY)
        self.finished[request.request_id] += 1

    async def _missing(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        self.answered[request.request_id] += 1
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone")
        self.finished[request.request_id] += 1

    async def _fail(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        self.failed[request.request_id] = "503"
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")

    async def _slow(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.slow_seconds)
        await self._ok(request, writer)

    async def _reset(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        self.failed[request.request_id] = "reset"
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise EOFError

    async def _stream(self, request: Seen, writer: asyncio.StreamWriter, trailer: bytes = b"") -> None:
        self.answered[request.request_id] += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(self.chunks):
            event = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(self.pause_seconds)
        writer.write(b"0\r\n%b\r\n" % trailer)
        await writer.drain()
        self.finished[request.request_id] += 1

    async def _told(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        await self._stream(request, writer, b"X-Credits-Used: %d\r\n" % TOLD)


async def _read_body(reader: asyncio.StreamReader, request: Seen) -> bytes:
    if "chunked" in request.get("transfer-encoding").lower():
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # Trailers are in the recorded bytes.
        return body
    return await reader.readexactly(int(request.get("content-length") or 0))
