"""A small document as the whole answer of an ASGI endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import GatewayError, MethodNotAllowed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

Answer = tuple[int, bytes, bytes]
"""Status, content type and body."""


class DocumentEndpoint:
    """An ASGI endpoint that answers GET and HEAD with what `answer` returns for the scope, and never caches."""

    def __init__(self, answer: Callable[[Scope], Awaitable[Answer]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (nothing to read)
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        if scope["method"] not in ("GET", "HEAD"):
            await send_problem(MethodNotAllowed(("GET", "HEAD")), send)
            return
        status, content_type, body = await self._answer(scope)
        headers = [
            (b"content-type", content_type),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def send_problem(problem: GatewayError, send: Send) -> None:
    """Answer with a problem document (errors.py)."""
    status, headers, body = problem.response("")
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
