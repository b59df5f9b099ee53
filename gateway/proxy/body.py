"""The request body on its way upstream: whole when it is small and already here, streamed otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Receive

from gateway.errors import BodyTooLarge, NoHealthyTarget
from gateway.proxy.caller_gone import CallerGone

WHOLE_MAX_BYTES = 65_536
"""A body that says it is no longer is waited for before anything of it goes upstream."""


async def read_body(receive: Receive, content_length: int | None, max_bytes: int) -> bytes | StreamedBody:
    """The body: bytes if it is small, waited for until it is whole; else one that streams, from what is here on.

    A small body is not streamed: each caller who sends one slowly would occupy a connection to the upstream, and a few
    hundred of them all there are. A body of unknown length may be half of a conversation, so it is never waited for.
    Raises CallerGone, and BodyTooLarge for a body of unknown length that turns out too long; so does the streamed one.
    """
    is_waited_for = content_length is not None and content_length <= WHOLE_MAX_BYTES
    beginning, more = await _gather(receive, max_bytes, to_end=is_waited_for)
    return StreamedBody(receive, beginning, max_bytes) if more else beginning


async def read_whole_body(receive: Receive, max_bytes: int) -> bytes:
    """All of the body. Raises CallerGone, BodyTooLarge."""
    body, _ = await _gather(receive, max_bytes, to_end=True)
    return body


async def _gather(receive: Receive, max_bytes: int, *, to_end: bool) -> tuple[bytes, bool]:
    """The body to its end, or its first piece; and whether there is more."""
    pieces: list[bytes] = []
    total = 0
    more = True
    while more:
        piece, more = await _read_piece(receive)
        pieces.append(piece)
        total += len(piece)
        if total > max_bytes:
            raise BodyTooLarge(max_bytes)
        if not to_end:
            break
    return pieces[0] if len(pieces) == 1 else b"".join(pieces), more


class StreamedBody:
    """An async iterator over the pieces of a body that is still coming."""

    def __init__(self, receive: Receive, beginning: bytes, max_bytes: int) -> None:
        self._receive = receive
        self._beginning = beginning
        self._max_bytes = max_bytes
        self._total = len(beginning)
        self._more = True
        self.on_end: Callable[[], None] | None = None
        """Called when all of it has been read."""

    def __aiter__(self) -> StreamedBody:
        return self

    async def __anext__(self) -> bytes:
        if self._beginning:
            piece, self._beginning = self._beginning, b""
            return piece
        while self._more:
            piece, self._more = await _read_piece(self._receive)
            self._total += len(piece)
            if self._total > self._max_bytes:
                raise BodyTooLarge(self._max_bytes)
            if piece:
                return piece
        if self.on_end is not None:
            self.on_end()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nothing to let go of; whoever sends a body closes it."""


class Uploads:
    """The bodies on their way to one upstream: at most so many, lest slow callers take all its connections."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = 0

    @contextmanager
    def admit(self, body: StreamedBody) -> Iterator[None]:
        """Count the body until it has been read to its end, or until the block is left. Raises NoHealthyTarget."""
        if self.count >= self._limit:
            raise NoHealthyTarget(cause=f"{self._limit} bodies are on their way to the upstream already")
        self.count += 1
        counted = True

        def end() -> None:
            nonlocal counted
            if counted:
                counted = False
                self.count -= 1

        body.on_end = end
        try:
            yield
        finally:
            end()


async def _read_piece(receive: Receive) -> tuple[bytes, bool]:
    """The next piece, and whether there is more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise CallerGone
    return message.get("body", b""), message.get("more_body", False)
