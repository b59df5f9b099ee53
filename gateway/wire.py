"""The port through which small calls to a remote API go: a body there, a body back, within one deadline.

It lies below both sides, since they don't import each other: who asks (credits) and who carries (upstreams).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

Headers = list[tuple[bytes, bytes]]
"""Field lines in order, names in lower case."""


class Answer:
    """An answer that came whole. Any status is an answer, 3xx too: nothing is followed.

    `retry_after_seconds` is what a Retry-After says in plain seconds; None without one.
    """

    __slots__ = ("body", "retry_after_seconds", "status")

    def __init__(self, status: int, retry_after_seconds: int | None, body: bytes) -> None:
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.body = body

    def __repr__(self) -> str:
        # The body may hold a secret that has just been made.
        return f"Answer({self.status}, {len(self.body)} bytes)"


class WireError(Exception):
    """No answer: the other side is unreachable, late, broken, or says too much.

    `possibly_executed` answers the question of money: may the request have reached the other side? False only where no
    byte of it can have. `cause` is for the log; it never has a byte of request or answer.
    """

    def __init__(self, cause: str, *, possibly_executed: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.possibly_executed = possibly_executed


Left = Callable[[Coroutine[Any, Any, Answer]], None]
"""Takes over an exchange whose caller has left: runs the coroutine, which gives the Answer or raises WireError."""


class Wire(Protocol):
    """Posts to one base URL. Nothing whose bytes were sent is ever sent again; no answer is longer than 1 MiB."""

    async def post(
        self, target: bytes, headers: Headers, body: bytes, timeout_seconds: float, left: Left | None = None
    ) -> Answer:
        """The answer, or WireError, within `timeout_seconds` for everything: a connection, TLS, head and body.

        `target` is the path behind the base URL's; `headers` are complete but for Host, Accept-Encoding and framing.
        A caller who is cancelled when bytes may have been sent hands the exchange to `left`, called once, before
        CancelledError is raised; without `left` the connection is closed. Cancelled earlier, nothing happens.
        """

    async def get(self, target: bytes, headers: Headers, timeout_seconds: float) -> Answer:
        """The same for a GET, whose caller may leave at any time."""

    def count_connections(self) -> tuple[int, int, int]:
        """Connections open, how many of them are idle, and how many calls wait for one. For the metrics."""

    async def aclose(self) -> None:
        """Close every connection; whoever waits gets WireError."""
