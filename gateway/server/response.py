"""The head of a response, to bytes: the framing is ours, never the application's, and nothing can be injected."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NoReturn

from gateway.server.failure import BadResponseHead
from gateway.server.head import TOKEN_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

STATUS_LINES = {code: b"HTTP/1.1 %d " % code for code in range(100, 600)} | {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode("ascii") for status in HTTPStatus
}

NUL: Final = 0
"""As a number: of `b"\0" in head` Python would first try to make one, in vain, which takes ten times as long."""

LENGTH, DATE, OURS, CONNECTION, UPGRADE = 1, 2, 3, 4, 5
KNOWN_NAMES = dict.fromkeys(
    b"accept-ranges access-control-allow-origin age allow cache-control content-disposition content-encoding"
    b" content-language content-range content-type etag expires last-modified link location retry-after server"
    b" set-cookie traceparent vary via www-authenticate x-content-type-options x-credits-cost x-credits-remaining"
    b" x-request-id".split(),
    0,
) | {
    b"content-length": LENGTH,
    b"date": DATE,
    b"connection": CONNECTION,
    b"keep-alive": OURS,
    b"transfer-encoding": OURS,
    b"proxy-connection": OURS,
    b"upgrade": UPGRADE,
}
"""Names known to be tokens in lower case, and which of them need a second look."""


class ResponseHead:
    """Lines still to be joined (`render`), and what of them decides the framing.

    `content_length` is None where the application gave none; `close` where it asks for `connection: close`.
    """

    __slots__ = ("close", "content_length", "lines")

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]], date_line: bytes) -> None:
        self.lines = lines = [STATUS_LINES.get(status) or _no_status(status)]
        self.content_length: int | None = None
        self.close = False
        for header in headers:
            kind = KNOWN_NAMES.get(header[0])
            if kind == 0:
                lines.append(b": ".join(header))
                continue
            if kind is None:
                kind = _kind_of(header[0])
            if kind == LENGTH:
                self._read_length(header[1])
            elif kind == DATE:
                date_line = b""
            elif kind:
                if kind == CONNECTION and b"close" in header[1].lower():
                    self.close = True
                if status != 101 or kind == OURS:
                    continue
            lines.append(b": ".join(header))
        if date_line:
            lines.append(date_line)

    def render(self) -> bytes:
        """The head's bytes. Raises BadResponseHead if a name or value holds CR, LF or NUL."""
        lines = self.lines
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        count = len(lines) + 1
        if head.count(b"\n") != count or head.count(b"\r") != count or NUL in head:
            raise BadResponseHead("a header has CR, LF or NUL in it")
        return head

    def drop_length(self) -> None:
        """Where the status allows no body, it allows no Content-Length (RFC 9110 section 8.6)."""
        self.lines = [line for line in self.lines if not line[:15].lower().startswith(b"content-length:")]

    def _read_length(self, value: bytes) -> None:
        if self.content_length is not None or not value.isdigit():
            raise BadResponseHead("the content-length is not one number")
        self.content_length = int(value)


def _no_status(status: int) -> NoReturn:
    raise BadResponseHead(f"{status} is no status")


def _kind_of(name: bytes) -> int:
    """Of a name that is not in the table as it is spelled: 0 for one that needs no second look."""
    if not name or name.translate(None, TOKEN_BYTES):
        raise BadResponseHead("a header name is not a token")
    return KNOWN_NAMES.get(name.lower(), 0)
