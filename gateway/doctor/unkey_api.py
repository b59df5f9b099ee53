"""Unkey's API as the doctor asks it: with either root key, for questions that the gateway itself never has."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway import __version__
from gateway.errors import GatewayError
from gateway.upstreams.transport import Transport, UpstreamRequest
from gateway.wire import Answer

ANSWER_MAX_BYTES = 1_048_576
CALL_SECONDS = 4.0
LIVENESS = b"/v2/liveness"


class NoAnswer(Exception):
    """Unkey did not answer, or not whole. The message says why."""


class UnkeyApi:
    """Over any transport. Sends nothing twice."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def is_alive(self) -> Answer:
        """GET /v2/liveness, for which no root key is needed. Raises NoAnswer."""
        return await self._send(UpstreamRequest(b"GET", LIVENESS, [(b"user-agent", _AGENT)], content_length=0))

    async def ask(self, call: str, body: dict[str, Any], root_key: str) -> Answer:
        """POST a call. Any status is an answer. Raises NoAnswer."""
        content = json.dumps(body, separators=(",", ":")).encode("ascii")
        headers = [
            (b"authorization", b"Bearer " + root_key.encode("utf-8")),
            (b"content-type", b"application/json"),
            (b"accept", b"application/json"),
            (b"user-agent", _AGENT),
        ]
        target = b"/v2/" + call.encode("ascii")
        return await self._send(UpstreamRequest(b"POST", target, headers, content, len(content)))

    async def _send(self, request: UpstreamRequest) -> Answer:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await self._exchange(request)
        except TimeoutError:
            raise NoAnswer(f"no answer within {CALL_SECONDS:g} s") from None
        except GatewayError as error:
            raise NoAnswer(error.cause or error.title) from error

    async def _exchange(self, request: UpstreamRequest) -> Answer:
        response = await self._transport.send(request)
        try:
            body = response.body
            if body is None:
                body = b""
                while chunk := await response.read():
                    body += chunk
                    if len(body) > ANSWER_MAX_BYTES:
                        raise NoAnswer(f"its answer has more than {ANSWER_MAX_BYTES} bytes")
        finally:
            await response.aclose()
        return Answer(response.status, None, body)


_AGENT = f"credit-gateway-doctor/{__version__}".encode("ascii")
