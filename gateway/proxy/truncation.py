"""An answer that breaks off must look like one."""

from __future__ import annotations

from starlette.types import Send


async def show_break(send: Send) -> None:
    """The head was given to the server: see that it goes out, even if no byte of the body ever came. Returning with the
    body unfinished then makes the server cut the connection, so that the caller sees the truncation (RFC 9112 section
    8). Else the server would put an error of its own in the place of an answer that was settled."""
    try:
        await send({"type": "http.response.body", "body": b"", "more_body": True})
    except (OSError, RuntimeError):
        pass  # The caller has left; or the head was refused, or all of the answer is out: nothing to show.
