"""The request body on its way upstream: whole when it is small and already here, streamed otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.types import Receive

from gateway.errors import BodyTooLarge


class CallerGone(OSError):
    """The caller left in the middle of its body. Whoever sends the body upstream must break off, never finish it.

    An OSError, as what `send` raises when nobody is there any more (ASGI 2.4)."""


async def read_body(receive: Receive, max_bytes: int) -> bytes | AsyncIterator[bytes]:
    """The body: bytes if it has arrived in one piece, else an iterator that goes on where the first piece ended.

    Raises CallerGone, and BodyTooLarge for a body of unknown length that turns out too long; so does the iterator.
    """
    message = await receive()
    if message["type"] == "http.disconnect":
        raise CallerGone
    first: bytes = message.get("body", b"")
    if len(first) > max_bytes:
        raise BodyTooLarge(max_bytes)
    if not message.get("more_body", False):
        return first
    return _stream(receive, first, max_bytes)


async def _stream(receive: Receive, first: bytes, max_bytes: int) -> AsyncIterator[bytes]:
    total = len(first)
    if first:
        yield first
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CallerGone
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        total += len(chunk)
        if total > max_bytes:
            raise BodyTooLarge(max_bytes)
        if chunk:
            yield chunk
