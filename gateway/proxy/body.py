"""The request body on its way upstream: whole when it is small and already here, streamed otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.types import Receive

from gateway.errors import BodyTooLarge

WHOLE_MAX_BYTES = 65_536
"""Up to here a body is waited for before anything of it goes upstream."""


class CallerGone(OSError):
    """The caller left in the middle of its body. Whoever sends the body upstream must break off, never finish it.

    An OSError, as what `send` raises when nobody is there any more (ASGI 2.4)."""


async def read_body(receive: Receive, max_bytes: int) -> bytes | AsyncIterator[bytes]:
    """The body: bytes if it is small, waited for until it is whole; else an iterator, which starts with what is here.

    A small body is not streamed: each caller who sends one slowly would occupy a connection to the upstream, and a few
    hundred of them all there are. Raises CallerGone, and BodyTooLarge for a body of unknown length that turns out too
    long; so does the iterator.
    """
    pieces: list[bytes] = []
    total = 0
    more = True
    while more and total <= WHOLE_MAX_BYTES:
        piece, more = await _read_piece(receive)
        pieces.append(piece)
        total += len(piece)
        if total > max_bytes:
            raise BodyTooLarge(max_bytes)
    beginning = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return _stream(receive, beginning, max_bytes) if more else beginning


async def _stream(receive: Receive, beginning: bytes, max_bytes: int) -> AsyncIterator[bytes]:
    yield beginning
    total = len(beginning)
    more = True
    while more:
        piece, more = await _read_piece(receive)
        total += len(piece)
        if total > max_bytes:
            raise BodyTooLarge(max_bytes)
        if piece:
            yield piece


async def _read_piece(receive: Receive) -> tuple[bytes, bool]:
    """The next piece, and whether there is more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise CallerGone
    return message.get("body", b""), message.get("more_body", False)
