"""An upstream of many endless event streams: `python -m tests.e2e.event_source '{"events_per_second": …}'`.

What is asked for under …/events is a stream, any other call is answered at once. The streams get their events in turns,
`events_per_second` over all of them. It says which `port` it listens on, then whenever it is asked how many events it
has `sent`; after the word `stop` it sends no more. Bare sockets and epoll, and no task or timer for a stream: it must
leave the processor to the gateway.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque

from tests.e2e.beside import say, words

EVENT = b"9\r\ndata: !\n\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POLL_SECONDS = 0.002


class _Source:
    def __init__(self, events_per_second: float) -> None:
        self._rate = events_per_second
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._sockets: dict[int, socket.socket] = {}
        self._turns: deque[socket.socket] = deque()
        self._poller = select.epoll()
        self._sent = 0

    def run(self) -> None:
        listening, asked = self._listening.fileno(), sys.stdin.fileno()
        for fileno in (listening, asked):
            self._poller.register(fileno, select.EPOLLIN)
        say({"port": self._listening.getsockname()[1]})
        due, before = 0.0, time.monotonic()
        while True:
            for fileno, _ in self._poller.poll(POLL_SECONDS):
                if fileno == listening:
                    self._accept()
                elif fileno != asked:
                    self._answer(fileno)
                elif word := sys.stdin.readline():
                    self._rate = 0 if word == "stop\n" else self._rate
                    say({"sent": self._sent})
                else:
                    return
            now = time.monotonic()
            due, before = due + self._rate * (now - before), now
            while due >= 1:
                due -= 1
                self._send_next()

    def _accept(self) -> None:
        one, _ = self._listening.accept()
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets[one.fileno()] = one
        self._poller.register(one.fileno(), select.EPOLLIN)

    def _answer(self, fileno: int) -> None:
        """The gateway writes a small request at once, and the next when it has been answered."""
        one = self._sockets[fileno]
        try:
            request = one.recv(65_536)
        except OSError:
            request = b""
        if not request:
            self._sockets.pop(fileno).close()
        elif b"/events " in request.partition(b"\r\n")[0]:
            one.sendall(STREAM)
            self._turns.append(one)
        else:
            one.sendall(ANSWER)

    def _send_next(self) -> None:
        while self._turns:
            one = self._turns.popleft()
            try:
                one.sendall(EVENT)
            except OSError:
                continue  # the gateway has closed it
            self._turns.append(one)
            self._sent += 1
            return


if __name__ == "__main__":
    _Source(**words()).run()
