"""The stand-in for Unkey in a thread of its own: it outlives every gateway, and its books may be read at any time.

Gateways reach it through a front, which can also refuse connections, or answer with bytes that no HTTP server sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self, TypeVar

import uvloop

from gateway.sandbox.unkey.books import Received
from gateway.sandbox.unkey.permissions import RootKey
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY, UnkeyServer
from gateway.sandbox.unkey.settings import Settings

VERIFY = "keys.verifyKey"
T = TypeVar("T")


class Unkey:
    """`with Unkey() as unkey:` and then `unkey.section()` as a gateway's `credits.unkey`."""

    def __init__(self, **settings: Any) -> None:
        self.server = UnkeyServer(settings=Settings(**settings))
        self._canned: bytes | None = None
        self._ends = True
        self._closes_at_once = False
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="unkey", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def section(self, **more: Any) -> dict[str, Any]:
        """`credits.unkey` of a gateway that is to use it."""
        return {"api_id": API_ID, "root_key": ROOT_KEY, "base_url": f"http://127.0.0.1:{self.port}", **more}

    def do(self, work: Callable[[], T]) -> T:
        """Run it on the stand-in's own loop, where nothing happens meanwhile."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return done.result(10)

    # What is wrong with it

    def fail(self, kind: str, call: str = "verifyKey", **switches: Any) -> None:
        """See gateway/sandbox/unkey/faults.py."""
        self.do(lambda: self.server.faults.set(kind=kind, call=call, **switches))

    def put_root_key(self, root_key: RootKey | None) -> None:
        """What becomes of the gateway's root key; None: Unkey does not know it any more."""
        keys = self.server.database.root_keys
        self.do(lambda: keys.pop(ROOT_KEY, None) if root_key is None else keys.__setitem__(ROOT_KEY, root_key))

    def answer(self, canned: bytes, *, ends: bool = True) -> None:
        """The front answers everything with these bytes, and Unkey hears of nothing."""
        self._canned, self._ends = canned, ends
        self.cut()

    def close_at_once(self) -> None:
        self._closes_at_once = True
        self.cut()

    def refuse(self) -> None:
        """Nobody listens any more."""
        assert self._listener is not None
        self.do(self._listener.close)
        self.cut()

    def mend(self) -> None:
        """All is well again."""
        self.do(self.server.faults.clear)
        self.put_root_key(RootKey())
        self.do(lambda: self.server.settings.change(Settings().document()))
        was_strange = self._canned is not None or self._closes_at_once
        self._canned, self._ends, self._closes_at_once = None, True, False
        assert self._listener is not None
        if not self._listener.is_serving():
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        if was_strange:
            self.cut()

    def cut(self) -> None:
        """Break every connection that runs through the front."""
        self.do(lambda: [writer.transport.abort() for writer in self._writers])

    # What it knows

    def create_key(self, credits: int | None, **fields: Any) -> tuple[str, str]:
        """A key as somebody makes it at Unkey: its id and its secret."""
        return self.do(lambda: self.server.create_key(credits, **fields))

    def verifies(self) -> list[Received]:
        """Every verification that it received."""
        return self.do(lambda: [one for one in self.server.books.requests if one.asked.call == VERIFY])

    def verified(self) -> Counter[str]:
        """How often each secret was asked about."""
        return Counter(str(json.loads(one.asked.raw_body)["key"]) for one in self.verifies())

    def remaining(self, unkey_id: str) -> int:
        """What it would let through for this key."""
        balances = self.server.database.balances

        def read() -> int:
            live = balances.live(unkey_id)
            return (balances.stored(unkey_id) or 0) if live is None else live

        return self.do(read)

    def taken(self, unkey_id: str) -> int:
        """What verifications have taken from this key."""
        return self.do(lambda: self.server.database.balances.spent[unkey_id])

    # The thread

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await self.server.start()
        await self._listen()
        self._ready.set()
        await self._stop.wait()
        assert self._listener is not None
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.server.aclose()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=1024)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if self._closes_at_once:
                return
            await (self._pass(reader, writer) if self._canned is None else self._say(reader, writer, self._canned))
        except (OSError, EOFError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _say(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, canned: bytes) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(canned)
            await writer.drain()
            if self._ends:
                return

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", self.server.port)
        self._writers.add(there)
        try:
            back = asyncio.create_task(_pump(there_reader, writer))
            await _pump(reader, there)
            back.cancel()
            await asyncio.wait([back])
        finally:
            self._writers.discard(there)
            there.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from here to there, a reset as a reset."""
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except ConnectionResetError:
        writer.transport.abort()
    else:
        with contextlib.suppress(OSError):
            writer.close()
