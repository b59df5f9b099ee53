"""WebSockets through a real gateway: paid at the handshake, bytes both ways, nothing left when either side goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import threading
import urllib.request

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.e2e.audit import Books, audit, open_holds
from tests.e2e.harness import count, gateway, settings, until, until_async
from tests.upstreams import hostile

COST = 5
MESSAGES = count(small=1_000, full=20_000)
BIG_BYTES = 4_000_000


class Sockets:
    """An upstream that speaks WebSocket, in a thread of its own. By path: echo, refuse (403), bye (closes at once),
    hold (says nothing)."""

    def __init__(self) -> None:
        self.handshakes = []
        self.connections = []
        self.closed = 0
        self.port = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def abort_last(self) -> None:
        """Reset the last connection, with no close frame."""
        self._loop.call_soon_threadsafe(self.connections[-1].transport.abort)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with serve(
            self._talk,
            "127.0.0.1",
            0,
            process_request=self._shake_hands,
            max_size=None,
            open_timeout=30,
            close_timeout=1,
        ) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()

    def _shake_hands(self, connection, request):
        self.handshakes.append(request)
        if request.path.endswith("/refuse"):
            return connection.respond(403, "not you\n")
        return None

    async def _talk(self, connection) -> None:
        self.connections.append(connection)
        try:
            if connection.request.path.endswith("/bye"):
                await connection.close(1000, "bye")
            elif connection.request.path.endswith("/hold"):
                await connection.wait_closed()
            else:
                async for message in connection:
                    await connection.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.closed += 1


@pytest.fixture(scope="module")
def upstream():
    with Sockets() as sockets:
        yield sockets


@pytest.fixture(scope="module")
def plain():
    with hostile.ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def served(upstream, plain, tmp_path_factory):
    directory = tmp_path_factory.mktemp("websocket")
    routes = [
        {"path": "/ws/{what}", "methods": ["GET"], "upstream": "main", "cost": COST, "websocket": True},
        {"path": "/plain/{what}", "methods": ["GET"], "upstream": "plain", "cost": COST},
        {"path": "/raw/{what}", "methods": ["GET"], "upstream": "plain", "cost": COST, "websocket": True},
    ]
    config = settings(directory, upstream.url, upstreams={"plain": {"targets": [plain.url]}}, routes=routes)
    with gateway(directory, config) as running:
        running.start()
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.errors
        audit(running.database)


@pytest.fixture
def key(served):
    """A fresh key with 20 credits: its secret and its key_id."""
    return served.create_key(20)


def opening(served, secret, target="/ws/echo", **rest):
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return connect(
        f"ws://127.0.0.1:{served.port}{target}", additional_headers=headers, proxy=None, max_size=None, **rest
    )


def available(served, key_id):
    until(lambda: not open_holds(served.database))
    return Books(served.database).available(key_id)


def connections(served):
    process = psutil.Process(served.process.pid)
    return [found for found in process.net_connections("tcp") if found.status != psutil.CONN_LISTEN and found.raddr]


def gauges(served):
    with urllib.request.urlopen(f"http://127.0.0.1:{served.admin_port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        name: float(value)
        for name, value in re.findall(r"^gateway_(\w+)(?:\{[^}]*\})? ([0-9.e+]+)$", text, re.MULTILINE)
    }


def test_a_handshake_is_settled_when_it_succeeds(served, upstream, key):
    secret, key_id = key

    async def talk():
        async with opening(served, secret) as caller:
            assert caller.response.headers["X-Credits-Cost"] == str(COST)
            assert caller.response.headers["X-Credits-Remaining"] == "15"
            assert available(served, key_id) == 15, "settled while the connection lives"
            await caller.send("hello")
            assert await caller.recv() == "hello"
            return caller.response.headers["X-Request-Id"]

    request_id = asyncio.run(talk())
    assert Books(served.database).charged[request_id] == COST
    handshake = upstream.handshakes[-1].headers
    assert handshake["X-Gateway-Key-Id"] == key_id
    assert secret not in str(handshake)


def test_a_refused_handshake_is_free(served, key):
    secret, key_id = key

    async def talk():
        with pytest.raises(InvalidStatus) as refused:
            async with opening(served, secret, "/ws/refuse"):
                pass
        return refused.value.response

    response = asyncio.run(talk())
    assert (response.status_code, response.body) == (403, b"not you\n")
    assert response.headers["X-Credits-Cost"] == "0"
    assert available(served, key_id) == 20


@pytest.mark.parametrize(("credits", "secret", "status"), [(4, None, 402), (0, "", 401), (0, "gw_nobody", 401)])
def test_who_cannot_pay_never_reaches_the_upstream(served, upstream, credits, secret, status):
    seen = len(upstream.handshakes)
    if secret is None:
        secret, _ = served.create_key(credits)

    async def talk():
        with pytest.raises(InvalidStatus) as refused:
            async with opening(served, secret):
                pass
        return refused.value.response

    response = asyncio.run(talk())
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert len(upstream.handshakes) == seen


@pytest.mark.parametrize("compression", ["deflate", None])
def test_many_messages_go_both_ways_in_order(served, key, compression):
    async def talk():
        async with opening(served, key[0], compression=compression) as caller:

            async def send():
                for number in range(MESSAGES):
                    await caller.send(f"message {number}")

            sending = asyncio.create_task(send())
            for number in range(MESSAGES):
                assert await caller.recv() == f"message {number}"
            await sending

    asyncio.run(asyncio.wait_for(talk(), 60))


def test_a_big_message_is_byte_identical(served, key):
    message = os.urandom(BIG_BYTES)

    async def talk():
        async with opening(served, key[0], compression=None) as caller:
            for _ in range(3):
                await caller.send(message)
                assert await caller.recv() == message

    asyncio.run(asyncio.wait_for(talk(), 60))


def test_the_caller_closing_ends_both(served, upstream, key):
    closed = upstream.closed

    async def talk():
        async with opening(served, key[0]) as caller:
            await caller.send("a")
            await caller.recv()
            await caller.close(1000, "done")
            assert caller.close_code == 1000

    asyncio.run(talk())
    until(lambda: upstream.closed > closed)
    assert upstream.connections[-1].close_code == 1000
    until(lambda: not connections(served))


def test_the_upstream_closing_ends_both(served, key):
    async def talk():
        async with opening(served, key[0], "/ws/bye") as caller:
            with pytest.raises(ConnectionClosed) as closed:
                await caller.recv()
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "bye")

    asyncio.run(talk())
    until(lambda: not connections(served))


def test_a_caller_lost_without_a_word_is_cleaned_up_after(served):
    """Also one that the upstream says nothing to: nobody would write to it and notice."""
    secret, _ = served.create_key(100)
    before = gauges(served)

    async def talk():
        callers = [await opening(served, secret, target) for target in ("/ws/hold", "/ws/echo") * 5]
        assert len(connections(served)) == 2 * len(callers)
        for caller in callers:
            caller.transport.abort()

    asyncio.run(talk())
    until(lambda: not connections(served), 5)
    after = gauges(served)
    for name in ("connections_open", "tasks", "upstream_connections_open", "upstream_connections_idle", "holds_open"):
        assert after[name] == before[name], name


def test_an_upstream_lost_without_a_word_is_seen_by_the_caller(served, upstream, key):
    met = len(upstream.connections)

    async def talk():
        async with opening(served, key[0], "/ws/hold") as caller:
            await until_async(lambda: len(upstream.connections) > met)
            upstream.abort_last()
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(caller.recv(), 30)
            assert closed.value.rcvd is None, "no close frame was made up"

    asyncio.run(talk())
    until(lambda: not connections(served))
    assert available(served, key[1]) == 15, "the handshake was what was paid for"


def upgrade(served, secret, target, *lines):
    sock = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    head = [
        f"GET {target} HTTP/1.1",
        "Host: a",
        f"X-API-Key: {secret}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *(lines or ("Sec-WebSocket-Version: 13",)),
    ]
    sock.sendall("\r\n".join([*head, "", ""]).encode())
    return sock


def read_head(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65_536)
        assert more, data
        data += more
    return data


def test_a_route_without_websocket_never_forwards_an_upgrade(served, plain, key):
    secret, key_id = key
    with upgrade(served, secret, "/plain/ok") as sock:
        sock.sendall(b"GET /raw/ok HTTP/1.1\r\nHost: a\r\n\r\n")  # what a tunnel would have passed on
        data = b""
        with contextlib.suppress(OSError):
            while more := sock.recv(65_536):
                data += more
    assert data.startswith(b"HTTP/1.1 200 ")
    assert data.count(b"HTTP/1.1 ") == 1
    (seen,) = plain.requests("ok")
    assert not seen.header("upgrade")
    assert seen.header("connection") in ([], ["keep-alive"])
    assert available(served, key_id) == 15


@pytest.mark.parametrize("line", ["Sec-WebSocket-Version: 12", "Sec-WebSocket-Version: thirteen", "X-Version: 13"])
def test_an_upgrade_that_is_none_is_not_forwarded(served, plain, key, line):
    plain.seen.clear()
    with upgrade(served, key[0], "/raw/ok", line) as sock:
        assert not read_head(sock).startswith(b"HTTP/1.1 101 ")
    for seen in plain.seen:
        assert not seen.header("upgrade")


def test_bytes_right_behind_either_side_of_the_handshake_are_not_lost(served, key):
    with upgrade(served, key[0], "/raw/tunnel") as sock:
        data = read_head(sock)
        assert data.startswith(b"HTTP/1.1 101 ")
        sock.sendall(b"second")
        while not data.endswith(b"\r\n\r\nfirstsecond"):
            more = sock.recv(65_536)
            assert more, data
            data += more


def test_a_handshake_that_was_under_way_when_the_drain_began_is_finished(plain, tmp_path, monkeypatch):
    """It is paid for when the upstream switches; the tunnel then lives as long as the drain lets streams live."""
    arrived, draining = threading.Event(), threading.Event()

    def switch_late(peer, seen):
        arrived.set()
        assert draining.wait(10)
        return hostile.tunnel(peer, seen)

    monkeypatch.setitem(hostile.SCRIPTS, "late", switch_late)
    routes = [{"path": "/raw/{what}", "methods": ["GET"], "upstream": "main", "cost": COST, "websocket": True}]
    config = settings(tmp_path, plain.url, routes=routes, server={"drain_timeout_seconds": 1})
    with gateway(tmp_path, config) as running:
        secret, key_id = running.create_key(20)
        running.start()
        with upgrade(running, secret, "/raw/late") as sock:
            assert arrived.wait(10)
            running.signal(signal.SIGTERM)
            until(lambda: _refuses(running.port))
            draining.set()
            data = read_head(sock)
            assert data.startswith(b"HTTP/1.1 101 ")
            sock.sendall(b"second")
            while not data.endswith(b"firstsecond"):
                more = sock.recv(65_536)
                assert more, data
                data += more
            assert sock.recv(1) == b"", "the drain limit ends it"
        assert running.wait() == 0
        assert Books(running.database).available(key_id) == 20 - COST


def _refuses(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


def test_pretending_to_want_an_upgrade_makes_no_answer_free(served, key):
    with upgrade(served, key[0], "/raw/ok") as sock:
        head = read_head(sock)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nx-credits-cost: 5\r\n" in head
    assert available(served, key[1]) == 15
