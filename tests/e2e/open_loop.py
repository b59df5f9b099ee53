"""Load that does not wait for answers: `python -m tests.e2e.open_loop '{"port": …, "rate": …}'`, a process of its own.

The connections are made first, and left alone for SETTLE_SECONDS: what is measured is requests, not the opening of
connections. Then requests become due at a fixed rate whatever is still unanswered. A request takes the connection that
has been free for longest; where there is none it is sent when there is one, and what is never sent is `unsent`. Its
time counts from when it was sent: how long the gateway takes, not how long the load waited for a connection. Bare
sockets and epoll, for the load must cost a fraction of what it costs the gateway.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

SETTLE_SECONDS = 0.5


@dataclass
class Asked:
    """What to send. `rate` is in requests per second; 0: each connection asks again when it was answered."""

    port: int
    request: str
    connections: int
    seconds: float
    rate: float = 0


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


def main() -> None:
    print(json.dumps(asdict(load(Asked(**json.loads(sys.argv[1]))))))


def load(asked: Asked) -> Told:
    request = asked.request.encode()
    sockets: dict[int, socket.socket] = {}
    poller = select.epoll()
    for _ in range(asked.connections):
        one = socket.create_connection(("127.0.0.1", asked.port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setblocking(False)
        sockets[one.fileno()] = one
        poller.register(one.fileno(), select.EPOLLIN)
    time.sleep(SETTLE_SECONDS)
    free = deque(sockets)
    sent_at: dict[int, float] = {}
    times: dict[bytes, list[float]] = {b"200": [], b"503": []}
    others = broken = due = sent = 0
    began = now = time.perf_counter()
    until = began + asked.seconds
    while (now < until or sent_at) and now < until + 5:
        if now < until:
            due = int((now - began) * asked.rate) if asked.rate else sent + len(free)
            while sent < due and free:
                fileno = free.popleft()
                sent_at[fileno] = time.perf_counter()
                sockets[fileno].send(request)
                sent += 1
        for fileno, _ in poller.poll(0.0005):
            try:
                data = sockets[fileno].recv(65_536)
            except OSError:
                data = b""
            start = data.find(b"HTTP/1.1 ")
            if data and start < 0:
                continue  # a body that came behind its head
            answered_at = time.perf_counter()
            since = sent_at.pop(fileno, 0.0)
            if not data:
                broken += 1
                poller.unregister(fileno)
                continue
            found = times.get(data[start + 9 : start + 12])
            if found is None:
                others += 1
            else:
                found.append(answered_at - since)
            free.append(fileno)
        now = time.perf_counter()
    served, refused = sorted(times[b"200"]), sorted(times[b"503"])
    return Told(
        asked.seconds,
        due - sent,
        len(served),
        len(refused),
        others,
        broken,
        len(sent_at),
        *(_percentile(ordered, share) for ordered in (served, refused) for share in (0.5, 0.99)),
    )


def _percentile(ordered: list[float], share: float) -> float:
    return round(ordered[int(len(ordered) * share)] * 1000, 2) if ordered else 0.0


def command(**asked: Any) -> list[str]:
    """How to run it."""
    return [sys.executable, "-m", "tests.e2e.open_loop", json.dumps(asked)]


if __name__ == "__main__":
    main()
