"""A chunked body, from bytes (RFC 9112 section 7.1): sans-IO, strict, linear, with every part bounded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.errors import BadRequest, GatewayError, HeadTooLarge
from gateway.server.head import CRLF, TEXT_BYTES, read_name

if TYPE_CHECKING:
    from gateway.server.limits import Limits

SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
"""15 digits stay clear of every 64-bit overflow."""
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
EXTENSIONS = re.compile(rb"(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"[^"\\]*"))?)+')
EXTENSIONS_MAX_BYTES = 4_096
"""Of one body, all chunks together: extensions mean nothing to us and are not paid for without end."""


class ChunkedBody:
    """Feed it what comes; `complete` once the last chunk and the trailers are in, `rest` is what came after them.

    Trailers are checked like header lines and dropped: nothing after the head may become a header
    (RFC 9110 section 6.5.1).
    """

    __slots__ = ("_expects", "_extensions_bytes", "_limits", "_partial", "_remaining", "_trailer_bytes", "_trailers",
                 "complete", "rest")  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.complete = False
        self.rest = b""
        self._limits = limits
        self._expects = ChunkedBody._on_size
        self._partial = b""
        self._remaining = 0
        self._extensions_bytes = 0
        self._trailer_bytes = 0
        self._trailers = 0

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`. Raises BadRequest or HeadTooLarge as soon as no valid body can come of it."""
        if self._partial:
            data = self._partial + data
            self._partial = b""
        position, pieces = 0, []
        while not self.complete:
            if self._remaining:
                piece = data[position : position + self._remaining]
                position += len(piece)
                self._remaining -= len(piece)
                pieces.append(piece)
                if self._remaining:
                    break
                self._expects = ChunkedBody._on_end_of_chunk
            end = data.find(CRLF, position)
            if end < 0:
                self._keep(data[position:])
                break
            self._expects(self, data[position:end])
            position = end + 2
        if self.complete:
            self.rest = data[position:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _keep(self, partial: bytes) -> None:
        """An unfinished line waits for its end, unless it can't become a valid one."""
        line = partial.removesuffix(b"\r")
        if line:
            if line.translate(None, TEXT_BYTES):
                raise BadRequest("A chunk line has a control character, or is not ended by CR LF.")
            if self._expects is ChunkedBody._on_end_of_chunk:
                raise _bad_chunk()
            if self._expects is ChunkedBody._on_size and not SIZE.match(line):
                raise _bad_chunk()
            if len(line) > self._limits.head_max_bytes:
                raise HeadTooLarge("A chunk's line is too long.")
        self._partial = partial

    def _on_size(self, line: bytes) -> None:
        if SIZE.fullmatch(line) is None:
            size, _, _ = line.partition(b";")
            self._read_extensions(line[len(size) :])
            if SIZE.fullmatch(size) is None:
                raise _bad_chunk()
            line = size
        self._remaining = int(line, 16)
        if not self._remaining:
            self._expects = ChunkedBody._on_trailer

    def _read_extensions(self, extensions: bytes) -> None:
        self._extensions_bytes += len(extensions)
        if self._extensions_bytes > EXTENSIONS_MAX_BYTES:
            raise HeadTooLarge("The chunk extensions are too long.")
        if EXTENSIONS.fullmatch(extensions) is None or extensions.translate(None, TEXT_BYTES):
            raise _bad_chunk()

    def _on_end_of_chunk(self, line: bytes) -> None:
        if line:
            raise _bad_chunk()
        self._expects = ChunkedBody._on_size

    def _on_trailer(self, line: bytes) -> None:
        if not line:
            self.complete = True
            return
        self._trailers += 1
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > self._limits.head_max_bytes or self._trailers > self._limits.head_max_fields:
            raise HeadTooLarge("The trailers are too long.")
        name, colon, value = line.partition(b":")
        read_name(name)
        if not colon or value.translate(None, TEXT_BYTES):
            raise BadRequest("A trailer line is not valid.")


def _bad_chunk() -> GatewayError:
    return BadRequest("The chunked body is malformed.")
