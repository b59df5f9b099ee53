"""A WebSocket after the handshake: bytes both ways until either side is done.

The gateway does not take frames apart; it was paid for the handshake. The server's tunnel extension gives raw bytes
once a 101 has been sent.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Send

from gateway.upstreams.transport import Headers, UpstreamResponse


async def relay_tunnel(response: UpstreamResponse, headers: Headers, receive: Receive, send: Send) -> None:
    """Answer 101 and pass bytes on in both directions, each with its own back-pressure."""
    upgrade = [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
    await send({"type": "http.response.start", "status": 101, "headers": [*headers, *upgrade]})
    up = asyncio.create_task(_to_upstream(response, receive))
    down = asyncio.create_task(_to_caller(response, send))
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        await response.aclose()
    await send({"type": "http.response.body", "body": b""})


async def _to_upstream(response: UpstreamResponse, receive: Receive) -> None:
    while (message := await receive())["type"] == "http.request":
        await response.write(message["body"])


async def _to_caller(response: UpstreamResponse, send: Send) -> None:
    while chunk := await response.read():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
