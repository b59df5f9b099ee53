"""A server of our protocol in a thread, and a caller that speaks raw bytes to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time

import uvloop

from gateway.config.tree import ServerSection
from gateway.deadlines import Deadlines
from gateway.server.limits import Limits
from gateway.server.listener import Listener

PATIENCE_SECONDS = 30
"""How long a test waits for what must happen: it costs nothing when it does, and a machine may be busy."""


def limits(**changes) -> Limits:
    return Limits.of(ServerSection(**changes))


def wait_until(condition, seconds=PATIENCE_SECONDS):
    """Poll until `condition()` is true; its value."""
    give_up_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.005)
    return value


class Recorder:
    """An application that reads each request whole, remembers it, and answers with a small JSON."""

    def __init__(self):
        self.requests = []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.requests.append(
            (scope["method"], scope["raw_path"], scope["query_string"], tuple(scope["headers"]), body),
        )
        answer = json.dumps({"n": len(self.requests)}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    @property
    def targets(self):
        return [request[1] for request in self.requests]


class Caller:
    """One TCP connection."""

    def __init__(self, port, *, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE_SECONDS)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, data):
        self.socket.sendall(data)
        return self

    def send_each(self, *pieces):
        """Each piece as a segment of its own, read by the server before the next one is sent."""
        for piece in pieces:
            self.socket.sendall(piece)
            time.sleep(0.002)
        return self

    def more(self):
        """Read some more; False at the end of the stream or when it was reset."""
        try:
            data = self.socket.recv(65_536)
        except ConnectionResetError:
            return False
        self.buffer += data
        return bool(data)

    def until(self, end):
        """What comes up to and with `end`."""
        while end not in self.buffer:
            assert self.more(), f"the stream ended before {end!r}: {self.buffer!r}"
        head, _, self.buffer = self.buffer.partition(end)
        return head + end

    def exactly(self, count):
        gathered = bytearray(self.buffer)
        while len(gathered) < count:
            self.buffer = b""
            assert self.more(), "the stream ended early"
            gathered += self.buffer
        self.buffer = bytes(gathered[count:])
        return bytes(gathered[:count])

    def response(self, method="GET"):
        """Status, headers (dict), body of the next response."""
        head = self.until(b"\r\n\r\n").decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        status = int(status_line.split(" ")[1])
        return status, headers, self._body(status, headers, method)

    def _body(self, status, headers, method):
        if method == "HEAD" or status in (101, 204, 304):
            return b""
        if "content-length" in headers:
            return self.exactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self.exactly(size)
                assert self.exactly(2) == b"\r\n"
            assert self.exactly(2) == b"\r\n"
            return body
        return self.rest()

    def rest(self):
        """All until the end of the stream."""
        while self.more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def is_reset(self):
        """Whether the stream ends by a reset."""
        try:
            while self.socket.recv(65_536):
                pass
        except ConnectionResetError:
            return True
        return False

    def close(self, *, reset=False):
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


class Server:
    """Callers' connections, served by `app` in a uvloop of its own thread."""

    def __init__(self, app, **changes):
        self.app = app
        self.limits = limits(**changes)
        self.callers = []
        self.errors = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self):
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._stop = asyncio.Event()
        deadlines = Deadlines(self.loop, tick_seconds=0.02)
        self.listener = Listener(self.app, self.limits, deadlines)
        server = await self.loop.create_server(self.listener, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in list(self.listener.server_state.connections):
            connection.abort()
        while self.listener.server_state.tasks or self.listener.server_state.connections:
            await asyncio.sleep(0.001)
        self.listener.close()
        deadlines.close()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_):
        for caller in self.callers:
            caller.close()
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        assert not self.errors

    def caller(self, **options):
        self.callers.append(Caller(self.port, **options))
        return self.callers[-1]

    def call(self, data):
        """Send bytes on a new connection."""
        return self.caller().send(data)

    def in_loop(self, function, *arguments):
        """Call it in the server's loop; its result."""

        async def call():
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE_SECONDS)

    @property
    def connections(self):
        return list(self.listener.server_state.connections)

    @property
    def tasks(self):
        return list(self.listener.server_state.tasks)


@contextlib.contextmanager
def serving(app=None, **changes):
    with Server(app if app is not None else Recorder(), **changes) as server:
        yield server
