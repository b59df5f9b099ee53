"""Upstreams that lie, stall and break off, behind a real gateway: what the caller sees, what it pays, what is left."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass

import psutil
import pytest

from tests.e2e.audit import Books, audit, open_holds
from tests.e2e.harness import count, gateway, settings, until
from tests.upstreams import hostile

RESPONSE_SECONDS, IDLE_SECONDS = 0.4, 0.5
COST = 2
BODY_BYTES = count(small=50, full=1_000) * 1_000_000
RSS_MAX_BYTES = 200_000_000
RSS_GROWTH_MAX_BYTES = 60_000_000
PROBLEMS = {
    "unreachable": (502, "upstream-unreachable"),
    "bad": (502, "bad-upstream-response"),
    "timeout": (504, "upstream-timeout"),
}
LEAKS = re.compile(rb"(?i)evil|<html|not HTTP|Set-Cookie|127\.0\.0\.1|httptools|llhttp|Traceback|errno")
"""What only the upstream or our insides can have said."""


@pytest.fixture(scope="module")
def upstream():
    with hostile.ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def served(upstream, tmp_path_factory):
    directory = tmp_path_factory.mktemp("hostile")
    with hostile.refusing_port() as refusing, hostile.blackhole_port() as blackhole:
        quick = {
            "response_timeout_seconds": RESPONSE_SECONDS,
            "idle_timeout_seconds": IDLE_SECONDS,
            "connect_timeout_seconds": 0.3,
        }
        config = settings(
            directory,
            upstream.url,
            upstream=quick,
            upstreams={
                "refusing": {"targets": [f"http://127.0.0.1:{refusing}"]} | quick,
                "blackhole": {"targets": [f"http://127.0.0.1:{blackhole}"]} | quick,
                "patient": {"targets": [upstream.url], "idle_timeout_seconds": 60, "response_timeout_seconds": 60},
            },
            routes=[
                {"path": "/call/{what}", "methods": ["GET", "POST"], "upstream": "main", "cost": COST},
                {"path": "/refusing/{what}", "methods": ["POST"], "upstream": "refusing", "cost": COST},
                {"path": "/blackhole/{what}", "methods": ["POST"], "upstream": "blackhole", "cost": COST},
                {
                    "path": "/patient/{what}",
                    "methods": ["GET", "POST"],
                    "upstream": "patient",
                    "cost": COST,
                    "body_max_bytes": 10**12,
                },
            ],
        )
        with gateway(directory, config) as running:
            running.secret, running.key_id = running.create_key(1_000_000)
            running.start()
            yield running
            assert running.stop() == 0
            assert "Traceback" not in running.errors
            assert "a defect" not in running.errors
            audit(running.database)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    rest: bytes
    whole: bool

    @property
    def problem(self):
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.rest)


def connect(running, target: str, method: str = "GET", *headers: str) -> socket.socket:
    """A connection on which that request was sent."""
    sock = socket.create_connection(("127.0.0.1", running.port), timeout=60)
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", f"X-API-Key: {running.secret}", *headers, "", ""]
    sock.sendall("\r\n".join(lines).encode())
    return sock


def ask(running, target: str) -> Answer:
    """The answer, read to the end of the stream, and whether its framing says that it is whole."""
    # POST: what may have been executed is never sent a second time.
    with connect(running, target, "POST", "Connection: close", "Content-Length: 0") as sock:
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := sock.recv(65_536):
                data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    status = int(line.split(" ")[1])
    if headers.get("transfer-encoding") == "chunked":
        whole = rest.endswith(b"0\r\n\r\n")
    elif status in (204, 304):
        whole = rest == b""
    else:
        whole = len(rest) == int(headers["content-length"])
    return Answer(status, headers, rest, whole)


def entry(running, answer: Answer):
    until(lambda: not open_holds(running.database))
    return Books(running.database).spent[answer.headers["x-request-id"]]


FLOODS = ("chunk-extension-endless", "trailers-endless", "trailer-endless")


@pytest.mark.parametrize("behaviour", hostile.BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_what_a_lying_upstream_does_is_seen_and_priced_rightly(served, upstream, behaviour):
    answer = ask(served, f"/call/{behaviour.name}")
    seen = upstream.requests(behaviour.name)
    assert [request.complete for request in seen] == [True], "forwarded exactly once"
    paid = entry(served, answer)
    if behaviour.sees in PROBLEMS:
        status, slug = PROBLEMS[behaviour.sees]
        assert (answer.status, answer.problem["status"]) == (status, status)
        assert answer.problem["type"].endswith(f":{slug}")
        assert answer.problem["released"] is True
        assert answer.problem["instance"] == answer.headers["x-request-id"]
        assert not LEAKS.search(answer.rest)
        assert (paid.amount, paid.reason) == (0, "timeout" if status == 504 else "unreachable")
    elif answer.status == 502:
        # The fault came with the head, so that there was time to say so.
        assert behaviour.sees == "cut"
        assert answer.problem["released"] is True
        assert paid.amount == 0
    else:
        assert answer.status in (200, 204, 304)
        assert answer.whole is (behaviour.sees == "whole")
        assert "x-evil" not in answer.headers
        assert b"more" not in answer.rest
        assert paid.amount == -COST
    assert ask(served, "/call/ok").status == 200
    good = upstream.requests("ok")[-1]
    assert good.connection != seen[0].connection, "the connection was used again"


@pytest.mark.parametrize(("route", "status"), [("refusing", 502), ("blackhole", 504)])
def test_an_upstream_that_is_not_there_costs_nothing(served, route, status):
    started = time.monotonic()
    answer = ask(served, f"/{route}/ok")
    assert time.monotonic() - started < 10
    assert answer.status == status
    assert answer.problem["released"] is True
    assert not LEAKS.search(answer.rest)
    assert entry(served, answer).amount == 0


class Memory:
    """The resident memory of a process, looked at all the time."""

    def __init__(self, running) -> None:
        self._process = psutil.Process(running.process.pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.peak = self._process.memory_info().rss

    def _watch(self) -> None:
        while not self._stopped.wait(0.02):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()

    def check_flat(self) -> None:
        assert self.peak < RSS_MAX_BYTES, f"{self.peak:,} bytes resident"
        assert self.peak - self.before < RSS_GROWTH_MAX_BYTES, f"from {self.before:,} to {self.peak:,} bytes resident"


def test_memory_is_flat_while_a_slow_caller_reads_an_endless_answer(served):
    with connect(served, "/patient/endless") as sock, Memory(served) as memory:
        buffer, left = bytearray(1 << 20), BODY_BYTES
        pause_every = BODY_BYTES // 20
        next_pause = BODY_BYTES
        while left > 0:
            left -= sock.recv_into(buffer)
            if left < next_pause:
                time.sleep(0.05)  # the slow reader: what the upstream sends meanwhile must wait, not pile up
                next_pause = left - pause_every
    memory.check_flat()
    until(lambda: not open_holds(served.database), 5)
    assert ask(served, "/call/ok").status == 200


def test_memory_is_flat_while_a_caller_reads_nothing(served):
    """The upstream floods; the caller takes a head and then no byte."""
    with connect(served, "/patient/endless") as sock, Memory(served) as memory:
        assert sock.recv(10)
        time.sleep(1)  # how long the flood has its chance
    memory.check_flat()
    until(lambda: not open_holds(served.database), 5)


def test_memory_is_flat_while_an_upstream_does_not_read_an_endless_upload(served):
    """Back-pressure reaches the caller: what nobody takes is not taken from it either."""
    headers = ("Content-Length: 100000000000",)
    with connect(served, "/patient/reads-nothing", "POST", *headers) as sock, Memory(served) as memory:
        sock.settimeout(1)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < BODY_BYTES:
                sent += sock.send(bytes(1 << 20))
        assert sent < 40_000_000, "taken from the caller though nobody read it"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    memory.check_flat()
    # The gateway does not read from this caller, and sees all the same that it is gone.
    until(lambda: not open_holds(served.database), 5)


def test_an_upload_that_the_upstream_takes_slowly_is_given_up_in_time(served):
    """An upstream that takes no byte is late, also if the caller goes on sending."""
    with connect(served, "/call/reads-nothing", "POST", "Content-Length: 10000000") as sock:
        started = time.monotonic()
        sock.settimeout(10)
        stop = threading.Event()

        def send() -> None:
            with contextlib.suppress(OSError):
                sock.sendall(bytes(10_000_000))
            stop.set()

        sender = threading.Thread(target=send)
        sender.start()
        head = sock.recv(65_536)
        assert head.startswith(b"HTTP/1.1 504 ")
        assert time.monotonic() - started < IDLE_SECONDS + 2
        sender.join(10)
    until(lambda: not open_holds(served.database), 5)
    assert Books(served.database).available(served.key_id) > 0


def test_a_slow_body_goes_on_as_long_as_bytes_come(served, upstream, monkeypatch):
    """The idle time is for silence: an answer slower than all timeouts together is no failure while it moves."""

    def trickle(peer, seen):
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
        for _ in range(8):
            time.sleep(IDLE_SECONDS / 3)
            peer.send(b"x")
        return True

    monkeypatch.setitem(hostile.SCRIPTS, "trickle", trickle)
    answer = ask(served, "/call/trickle")
    assert (answer.rest, answer.whole) == (b"x" * 8, True)
    assert entry(served, answer).amount == -COST
