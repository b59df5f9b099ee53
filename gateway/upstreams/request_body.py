"""How a streamed body is framed: RFC 9112 sections 6.2 and 7.1."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from gateway.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable


async def framed(body: AsyncIterator[bytes], length: int | None) -> AsyncGenerator[tuple[bytes, ...], None]:
    """Pieces to write for each part of `body`: chunks if `length` is None, else the bytes themselves.

    Raises what `body` raises, and BadRequest if it is not `length` bytes long: then what was given so far is no
    complete message, and the connection must not go on. Closes `body` when it is closed itself.
    """
    try:
        if length is None:
            async for part in body:
                if part:
                    yield b"%x\r\n" % len(part), part, b"\r\n"
            yield (b"0\r\n\r\n",)
            return
        left = length
        async for part in body:
            left -= len(part)
            if left < 0:
                break
            yield (part,)
        if left:
            raise BadRequest("The body has not the length that was declared.")
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()


async def send_framed(
    body: AsyncIterator[bytes], length: int | None, write: Callable[[tuple[bytes, ...]], Awaitable[None]]
) -> None:
    """Write all of `body`; it is closed whatever happens. Raises as `framed` does."""
    async with aclosing(framed(body, length)) as pieces:
        async for piece in pieces:
            await write(piece)
