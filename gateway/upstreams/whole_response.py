"""A short cut for the commonest answer: one that arrives whole, in one read, framed by one Content-Length.

It is read by a few bytes operations that run in C; llhttp calls back into Python for every field. Only what is plain
beyond doubt is read here. Whatever is not (another framing, another version, an interim response, an odd character, a
byte too many or too few) is left to llhttp and the rules of response_parser.py, which then see all of it. A test holds
that what is accepted here, they accept with the same meaning.
"""

from __future__ import annotations

from typing import Final

CRLF: Final = b"\r\n"
TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEXT_BYTES: Final = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""What a line may be made of: no control but HTAB."""

STATUSES: Final = {b"HTTP/1.1 %d " % status: status for status in range(200, 600) if status not in (204, 205, 304)}
"""Beginnings of status lines, of statuses whose answers may have a body."""

LINES_MAX: Final = 100
KNOWN_LINES_MAX: Final = 64
KNOWN_LINE_MAX_BYTES: Final = 256

PLAIN: Final = 0
LENGTH: Final = 1
ODD: Final = 2

Line = tuple[tuple[bytes, bytes], int]
"""A field, and what it means for the framing."""
KnownLines = dict[bytes, Line]
"""Lines that a connection has read before: an upstream's answers mostly differ in few. Bounded, and its own."""

Whole = tuple[int, list[tuple[bytes, bytes]], int, bytes]
"""Status, fields with names in lower case, Content-Length, body."""


def read_whole(data: bytes, known: KnownLines) -> Whole | None:
    """The answer, if `data` is exactly one plain one."""
    status = STATUSES.get(data[:13])
    end = data.find(b"\r\n\r\n")
    if status is None or end < 0:
        return None
    head = data[:end]
    lines = head.split(CRLF)
    del lines[0]
    if len(lines) > LINES_MAX or head.translate(None, TEXT_BYTES) != CRLF * len(lines):
        return None
    length = -1
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        field, meaning = known.get(line) or _read_line(line, known)
        if meaning:
            if meaning != LENGTH or length >= 0:
                return None
            length = int(field[1])
        headers.append(field)
    if length != len(data) - end - 4:
        return None
    return status, headers, length, data[end + 4 :]


def _read_line(line: bytes, known: KnownLines) -> Line:
    spelling, colon, value = line.partition(b":")
    name, value = spelling.lower(), value.strip(b" \t")
    read: Line = ((name, value), _meaning(name, value) if colon else ODD)
    if len(line) <= KNOWN_LINE_MAX_BYTES:
        if len(known) >= KNOWN_LINES_MAX:
            known.clear()
        known[line] = read
    return read


def _meaning(name: bytes, value: bytes) -> int:
    if not name or name.translate(None, TOKEN_BYTES):
        return ODD
    if name == b"content-length":
        return LENGTH if value.isdigit() and len(value) < 16 else ODD
    if name == b"connection":
        return PLAIN if value.lower() == b"keep-alive" else ODD
    return ODD if name in (b"transfer-encoding", b"upgrade", b"trailer") else PLAIN
