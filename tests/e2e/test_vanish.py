"""Callers who vanish, at any point of a call and by any way a connection can end, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import socket
import struct
import time
import urllib.request
from collections import Counter
from pathlib import Path

import psutil
import pytest
import uvloop

from tests.e2e.audit import Books, open_holds
from tests.e2e.caller import call, request
from tests.e2e.harness import TORTURE, allow_many_sockets, count, gateway, settings, until
from tests.e2e.upstream import Upstream

CALLERS = count(small=200, full=2_000)
AT_ONCE = 50
SWEEP_SECONDS = 0.5 if TORTURE else 0.02
"""How long after its last byte a caller vanishes at the latest: the sweep over the steps of a call."""
CREDITS = 1_000_000
LET_GO_SECONDS = 1 + 2
"""The contract's second, and what a busy machine may be late. Nothing else ends such a call for a minute."""
FILES_TOLERANCE = 2
"""Files that SQLite or the resolver may have opened meanwhile, and keep."""

GAUGE = re.compile(r"^gateway_(\w+)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
POINTS = ("silent", "half-head", "head", "half-body", "sent", "hung", "before-byte", "mid-stream", "after")
"""Where a caller vanishes: having said nothing, within the head, within the body, when the request is out, while the
upstream is silent, just when it answers, within the answer, after it."""

ROUTES = [
    {"path": "/call/{what}", "methods": ["POST"], "upstream": "main", "cost": 1},
    {"path": "/told/{what}", "methods": ["POST"], "upstream": "main", "cost": {"hold": 3, "settle": "X-Credits-Used"}},
    {
        "path": "/forgiving/{what}",
        "methods": ["POST"],
        "upstream": "main",
        "cost": {"hold": 3, "settle": "X-Credits-Used"},
        "release_on": ["unreachable", "timeout", "5xx", "client_abort"],
    },
]


class Usage:
    """What the gateway holds: open files, connections by state, and the gauges it shows itself."""

    def __init__(self, process: psutil.Process, admin_port: int) -> None:
        self._process = process
        self._admin_port = admin_port

    @property
    def files(self) -> int:
        return self._process.num_fds()

    def connections_to(self, port: int) -> int:
        return sum(bool(found.raddr) and found.raddr.port == port for found in self._connections())

    def connections_on(self, port: int) -> int:
        return sum(bool(found.raddr) and found.laddr.port == port for found in self._connections())

    def _connections(self):
        return [found for found in self._process.net_connections("tcp") if found.status != psutil.CONN_LISTEN]

    def gauges(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._admin_port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {name: float(value) for name, value in GAUGE.findall(text)}


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as served:
        yield served


@pytest.fixture(scope="module")
def served(upstream, tmp_path_factory):
    """A gateway, its usage, and a key that does not run out."""
    allow_many_sockets()
    directory = tmp_path_factory.mktemp("vanish")
    config = settings(directory, upstream.url, routes=ROUTES, upstream={"response_timeout_seconds": 60})
    with gateway(directory, config) as served:
        secret, _ = served.create_key(CREDITS)
        served.start()
        yield served, Usage(psutil.Process(served.process.pid), served.admin_port), secret
        assert served.stop() == 0
        assert "Traceback" not in served.errors


async def vanish(port: int, key: str, point: str, how: str, chance: random.Random) -> None:
    """Be a caller up to `point`, then end the connection by FIN or by RST."""
    prefix = chance.choice(("/call", "/told", "/forgiving"))
    what = {"hung": "hang", "before-byte": "slow", "mid-stream": "stream", "after": "told"}.get(point, "ok")
    body = b"{}" * chance.randrange(1, 40_000) if point in ("half-body", "sent") else b"{}"
    extra = "Expect: 100-continue\r\n" if point == "half-body" and chance.random() < 0.3 else ""
    data = request(key, what, body=body, extra=extra).replace(b"/call", prefix.encode(), 1)
    head = data.index(b"\r\n\r\n") + 4
    cut = {
        "silent": 0,
        "half-head": chance.randrange(1, head),
        "head": head,
        "half-body": chance.randrange(head, len(data)),
    }.get(point, len(data))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data[:cut])
        with contextlib.suppress(OSError, EOFError):
            if point in ("silent", "half-head", "head", "half-body", "sent", "hung"):
                await asyncio.sleep(chance.random() ** 2 * SWEEP_SECONDS)
            elif point == "before-byte":
                await asyncio.sleep(0.17 + chance.random() * 0.06)
            elif point == "mid-stream":
                await reader.readexactly(chance.randrange(1, 200))
            else:
                await reader.readuntil(b"0\r\n\r\n" if chance.random() < 0.8 else b"\r\n\r\n")
        if how == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def vanish_all(port: int, key: str) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            chance = random.Random(number)
            await vanish(port, key, POINTS[number % len(POINTS)], chance.choice(("reset", "close")), chance)

    await asyncio.gather(*map(one, range(CALLERS)))


async def good_calls(port: int, key: str, times: int) -> Counter[int]:
    return Counter([(await call(port, request(key))).status for _ in range(times)])


def test_callers_who_vanish_leave_nothing_behind(served, upstream):
    running, usage, key = served
    assert uvloop.run(good_calls(running.port, key, 20)) == {200: 20}
    until(lambda: not usage.connections_on(running.port))
    usage.gauges()
    files, gauges = usage.files, usage.gauges()

    uvloop.run(vanish_all(running.port, key))

    until(lambda: not usage.connections_on(running.port))
    until(lambda: usage.connections_to(upstream.port) <= AT_ONCE)
    until(lambda: not open_holds(running.database))
    assert uvloop.run(good_calls(running.port, key, 100)) == {200: 100}
    until(lambda: not usage.connections_on(running.port))
    idle = usage.connections_to(upstream.port)
    until(lambda: usage.files - idle <= files + FILES_TOLERANCE)
    after = usage.gauges()
    assert after["holds_open"] == after["journal_pending"] == 0
    for name in ("connections_open", "upstream_connections_waiting", "tasks"):
        assert after[name] == gauges[name], name
    assert after["upstream_connections_open"] == after["upstream_connections_idle"] == idle
    _audit_those_who_vanished(Books(running.database), upstream)
    assert "a defect" not in running.errors


def _audit_those_who_vanished(books: Books, upstream: Upstream) -> None:
    """Books balance, each call has one entry, and who was forgiven or never forwarded paid nothing."""
    for key, name, balance, held in books.keys:
        assert held == 0
        assert balance == sum(amount for owner, _, amount, _, _ in books.entries if owner == key), name
    ended = Counter(request_id for _, _, _, request_id, _ in books.entries if request_id)
    assert set(ended.values()) == {1}
    assert not [request_id for request_id in books.charged if not upstream.arrived[request_id]]
    assert not [request_id for request_id in upstream.arrived if request_id not in ended]
    for seen in upstream.seen:
        entry = books.spent[seen.request_id]
        if seen.target.startswith("/forgiving") and entry.reason == "client_abort":
            assert entry.amount == 0


@pytest.mark.parametrize("what", ["hang", "stream"])
@pytest.mark.parametrize("reset", [True, False])
def test_the_upstream_is_let_go_within_a_second(served, upstream, what, reset):
    """The connection that a vanished caller's call had is closed: it can't be reused, and must not be kept."""
    running, usage, key = served
    upstream.chunks, chunks = 10_000, upstream.chunks
    try:
        before = usage.connections_to(upstream.port)
        sock = socket.create_connection(("127.0.0.1", running.port))
        arrived = len(upstream.seen)
        sock.sendall(request(key, what))
        until(lambda: len(upstream.seen) > arrived)
        if what == "stream":
            assert sock.recv(10)
        during = usage.connections_to(upstream.port)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        left_at = time.monotonic()
        until(lambda: usage.connections_to(upstream.port) < max(during, before + 1), LET_GO_SECONDS)
        until(lambda: not open_holds(running.database), LET_GO_SECONDS)
        assert time.monotonic() - left_at < LET_GO_SECONDS
    finally:
        upstream.chunks = chunks


def test_a_call_that_the_drain_limit_cuts_is_free(upstream, tmp_path: Path):
    """The request was out, but that the caller gets no answer is our doing."""
    with gateway(tmp_path, settings(tmp_path, upstream.url, server={"drain_timeout_seconds": 0.2})) as running:
        secret, key_id = running.create_key(10)
        running.start()
        arrived = len(upstream.seen)
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as sock:
            sock.sendall(request(secret, "hang"))
            until(lambda: len(upstream.seen) > arrived)
            running.signal(signal.SIGTERM)
            assert sock.recv(65_536).startswith(b"HTTP/1.1 503 ")
        assert running.wait() == 0
        books = Books(running.database)
        assert books.available(key_id) == 10
        assert books.held == set()
