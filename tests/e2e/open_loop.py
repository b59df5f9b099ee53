"""Load that does not wait for answers: `python -m tests.e2e.open_loop '{"port": …, "rate": …}'`, a process of its own.

The connections are made first, and left alone for SETTLE_SECONDS each: what is measured is requests, not the opening of
connections. Then requests become due at a fixed rate whatever is still unanswered. A request takes the connection that
has been free for longest; where there is none it is sent when there is one, and what is never sent is `unsent`. Its
time counts from when it was sent: how long the gateway takes, not how long the load waited for a connection. Bare
sockets and epoll, for the load must cost a fraction of what it costs the gateway.

An answer counts when it is whole, which its Content-Length tells.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.e2e.beside import Beside, say, words

SETTLE_SECONDS = 0.001
PATIENCE_SECONDS = 30
"""How long the last requests may take."""
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
REQUEST_ID = re.compile(rb"\r\nx-request-id: (\S+)", re.IGNORECASE)
COST = re.compile(rb"\r\nx-credits-cost: (\d+)", re.IGNORECASE)


@dataclass
class Asked:
    """What to send. `rate` is in requests per second; 0: each connection asks again when it was answered. `seconds`, or
    0: until standard input ends. `answers_file` gets a line for each answer: its status, cost and request id."""

    port: int
    request: str
    connections: int
    seconds: float = 0
    rate: float = 0
    answers_file: str = ""


@dataclass
class Told:
    """What came of it. Times are in milliseconds, percentiles of the requests of one status."""

    seconds: float
    unsent: int
    served: int
    refused: int
    others: int
    broken: int
    unanswered: int
    served_p50: float
    served_p99: float
    refused_p50: float
    refused_p99: float

    @property
    def rate(self) -> float:
        """Served per second."""
        return self.served / self.seconds


class _Load:
    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._request = asked.request.encode()
        self._sockets: dict[int, socket.socket] = {}
        self._poller = select.epoll()
        self._sent_at: dict[int, float] = {}
        self._parts: dict[int, bytes] = {}
        self._times: dict[bytes, list[float]] = {b"200": [], b"503": []}
        self._lines: list[bytes] = []
        self._others = self._broken = self._sent = self._due = 0

    def run(self) -> Told:
        asked = self._asked
        for _ in range(asked.connections):
            one = socket.create_connection(("127.0.0.1", asked.port))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
            self._sockets[one.fileno()] = one
            self._poller.register(one.fileno(), select.EPOLLIN)
        time.sleep(SETTLE_SECONDS * asked.connections)
        if not asked.seconds:
            self._poller.register(sys.stdin.fileno(), select.EPOLLIN)
        self._free = deque(self._sockets)
        began = now = time.perf_counter()
        until = began + (asked.seconds or float("inf"))
        while (now < until or self._sent_at) and now < until + PATIENCE_SECONDS:
            if now < until:
                self._due = int((now - began) * asked.rate) if asked.rate else self._sent + len(self._free)
                self._send()
            for fileno, _ in self._poller.poll(0.0005):
                if fileno == sys.stdin.fileno():
                    self._poller.unregister(fileno)
                    until = now
                else:
                    self._receive(fileno)
            now = time.perf_counter()
        if asked.answers_file:
            Path(asked.answers_file).write_bytes(b"".join(self._lines))
        return self._told(until - began)

    def _send(self) -> None:
        while self._sent < self._due and self._free:
            fileno = self._free.popleft()
            if fileno not in self._sockets:
                continue
            self._sent_at[fileno] = time.perf_counter()
            with contextlib.suppress(OSError):  # whoever closed it is seen when it is read
                self._sockets[fileno].send(self._request)
            self._sent += 1

    def _receive(self, fileno: int) -> None:
        try:
            data = self._sockets[fileno].recv(65_536)
        except OSError:
            data = b""
        if not data:
            self._broken += 1
            self._sent_at.pop(fileno, None)
            self._sockets.pop(fileno).close()
            return
        data = self._parts.pop(fileno, b"") + data
        head, end, body = data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            self._parts[fileno] = data
            return
        since = time.perf_counter() - self._sent_at.pop(fileno)
        status = head[9:12]
        found = self._times.get(status)
        if found is None:
            self._others += 1
        else:
            found.append(since)
        if self._asked.answers_file:
            cost, request_id = COST.search(head), REQUEST_ID.search(head)
            line = (status, cost[1] if cost else b"-", request_id[1] if request_id else b"-")
            self._lines.append(b" ".join(line) + b"\n")
        self._free.append(fileno)

    def _told(self, seconds: float) -> Told:
        served, refused = sorted(self._times[b"200"]), sorted(self._times[b"503"])
        return Told(
            seconds,
            self._due - self._sent,
            len(served),
            len(refused),
            self._others,
            self._broken,
            len(self._sent_at),
            *(_percentile(ordered, share) for ordered in (served, refused) for share in (0.5, 0.99)),
        )


def _percentile(ordered: list[float], share: float) -> float:
    return round(ordered[int(len(ordered) * share)] * 1000, 2) if ordered else 0.0


class OpenLoop(Beside):
    """The test's side: the words are those of Asked."""

    def __init__(self, **asked: Any) -> None:
        super().__init__("open_loop", **asked)

    def told(self) -> Told:
        """What came of it, when it is over; without `seconds` it is over now."""
        return Told(**self.end())


if __name__ == "__main__":
    say(asdict(_Load(Asked(**words())).run()))
