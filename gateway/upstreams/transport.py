"""The ports through which calls go upstream, and the words they use.

The proxy speaks to an upstream (Transport, upstream.py), which chooses a target and speaks to it (TargetTransport).
Two adapters of the latter exist, held by one contract suite (tests/upstreams): `http1` (our own client over httptools,
the hot path) and `httpx` (for HTTP/2 and outbound proxies).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

Headers = list[tuple[bytes, bytes]]
"""Field lines in order, names in lower case, values without surrounding white space."""

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods whose request may be sent twice (RFC 9110 section 9.2.2)."""


class UpstreamRequest:
    """One request as it goes upstream.

    `target` is the raw request target (path and query) sent byte for byte after the target's base path.
    `headers` are end-to-end only and complete but for Host and the framing (Content-Length or Transfer-Encoding),
    which the transport writes. `body` is all of it, or an iterator when it streams; `content_length` is the length
    the caller declared, or None for a chunked body. `upgrade` asks for a switch of protocols (b"websocket").
    `is_sent` is the transport's: the whole request was written, so the upstream may have executed it.
    """

    __slots__ = ("body", "content_length", "headers", "is_sent", "method", "target", "upgrade")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes | AsyncIterator[bytes] = b"",
        content_length: int | None = None,
        upgrade: bytes = b"",
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.content_length = content_length
        self.upgrade = upgrade
        self.is_sent = False


class UpstreamResponse(Protocol):
    """An upstream's final answer: its head, and the body as it comes.

    `body` holds the whole body when it arrived together with the head (then `read` need not be called, `trailers`
    are final and the connection is already back in the pool); otherwise it is None and `read` streams it.
    Exactly one of: read to the end, or `aclose`; `aclose` after the end does nothing.
    """

    status: int
    headers: Headers
    content_length: int | None
    body: bytes | None
    trailers: Headers

    async def read(self) -> bytes:
        """The next bytes as they arrive, b"" at the end. Raises UpstreamError if the body is cut, late or broken."""

    async def write(self, chunk: bytes) -> None:
        """Send raw bytes after a 101, with back-pressure."""

    async def aclose(self) -> None:
        """Give the answer up: a connection with unread bytes is closed, never reused."""


class Transport(Protocol):
    """Sends requests to one named upstream."""

    name: str

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """The response head (1xx dropped), within the upstream's deadlines.

        Raises UpstreamUnreachable, UpstreamTimeout, BadUpstreamResponse or NoHealthyTarget, each saying whether the
        request may have been executed. Cancelling it closes the connection in use.
        """

    def count_connections(self) -> tuple[int, int, int]:
        """Connections open, how many of them are idle, and how many calls wait for one. For the metrics."""

    async def aclose(self) -> None:
        """Close every connection."""


class TargetTransport(Protocol):
    """Sends requests to one target of an upstream.

    Its `send` raises as Transport's does. Where it says that the request can't have been executed, nothing of a
    streamed body was taken either.
    """

    @property
    def load(self) -> int:
        """Calls in flight, the waiting ones included; about right is enough. Looked at for every call."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """See Transport.send."""

    def count_connections(self) -> tuple[int, int, int]:
        """See Transport.count_connections."""

    async def aclose(self) -> None:
        """Close every connection."""
