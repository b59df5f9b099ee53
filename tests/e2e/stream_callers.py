"""Callers of many event streams: `python -m tests.e2e.stream_callers '{"port": …, "request": …, "streams": …}'`.

They open all of them, AT_ONCE at a time, and say how they are: how many are `open`, `closed` and `refused`, how many
events were `received` and how many of them came on the stream with the `fewest`. Then they say so whenever they are
asked; after the word `anew` the fewest are counted anew. Bare sockets and epoll, for they must leave the processor to
the gateway.
"""

from __future__ import annotations

import select
import socket
import sys

from tests.e2e.beside import say, words

AT_ONCE = 50
MARK = b"!"
"""Each event has one, nothing else has: a single byte is never cut in two."""


class _Callers:
    def __init__(self, port: int, request: str, streams: int) -> None:
        self._address = ("127.0.0.1", port)
        self._request = request.encode()
        self._wanted = streams
        self._sockets: dict[int, socket.socket] = {}
        self._events: dict[int, int] = {}
        self._received = self._closed = self._refused = 0
        self._poller = select.epoll()

    def run(self) -> None:
        while self._wanted or len(self._sockets) > len(self._events):
            while self._wanted and len(self._sockets) < len(self._events) + AT_ONCE:
                self._open_one()
            self._read()
        self._say()
        asked = sys.stdin.fileno()
        self._poller.register(asked, select.EPOLLIN)
        while True:
            if self._read(asked):
                word = sys.stdin.readline()
                if not word:
                    return
                self._say()
                if word == "anew\n":
                    self._events = dict.fromkeys(self._events, 0)

    def _say(self) -> None:
        say(
            {
                "open": len(self._sockets),
                "closed": self._closed,
                "refused": self._refused,
                "received": self._received,
                "fewest": min(self._events.values(), default=0),
            }
        )

    def _open_one(self) -> None:
        one = socket.create_connection(self._address)
        one.sendall(self._request)
        self._sockets[one.fileno()] = one
        self._poller.register(one.fileno(), select.EPOLLIN)
        self._wanted -= 1

    def _read(self, asked: int = -1) -> bool:
        """What has come on any stream; whether something was asked."""
        is_asked = False
        for fileno, _ in self._poller.poll():
            if fileno == asked:
                is_asked = True
            else:
                self._take(fileno)
        return is_asked

    def _take(self, fileno: int) -> None:
        try:
            data = self._sockets[fileno].recv(65_536)
        except OSError:
            data = b""
        is_new = fileno not in self._events
        if not data or (is_new and not data.startswith(b"HTTP/1.1 200 ")):
            self._sockets.pop(fileno).close()
            self._events.pop(fileno, None)
            self._refused += is_new
            self._closed += not is_new
            return
        events = data.count(MARK)
        self._events[fileno] = self._events.get(fileno, 0) + events
        self._received += events


if __name__ == "__main__":
    _Callers(**words()).run()
