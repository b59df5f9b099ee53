"""Between a gateway and its server: passes everything on, until it is told to hang or to hang up."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit


class Relay:
    """In a thread with an event loop of its own. While it hangs, connections are taken, and nothing goes through."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._passing.set()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._join, "127.0.0.1", 0))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        port = self._server.sockets[0].getsockname()[1]
        self.url = urlunsplit(self._parts._replace(netloc=f"{self._parts.username}@127.0.0.1:{port}"))

    def hang(self) -> None:
        self._loop.call_soon_threadsafe(self._passing.clear)

    def go_on(self) -> None:
        self._loop.call_soon_threadsafe(self._passing.set)

    def hang_up(self) -> None:
        """On all who are connected."""
        self._loop.call_soon_threadsafe(self._cut)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        self._cut()
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0)), *self._pumps])

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._writers |= {writer, there[1]}
        for source, sink in ((reader, there[1]), (there[0], writer)):
            pump = asyncio.ensure_future(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                await self._passing.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()


@contextlib.contextmanager
def relay(url: str) -> Iterator[Relay]:
    opened = Relay(url)
    try:
        yield opened
    finally:
        opened.close()
