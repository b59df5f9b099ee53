"""A caller over a raw socket: what was answered, and whether the answer was whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Self

import pytest

PATIENCE_SECONDS = 30


@dataclass
class Answer:
    """What came back. Status 0: nothing did, the connection broke first. Not `whole`: it broke off later."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def slug(self) -> str:
        """Which of the gateway's own errors it is; empty for an upstream's answer."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        return str(json.loads(self.body)["type"]).rpartition(":")[2]

    @property
    def cost(self) -> int | None:
        """What the head says the call costs; None where that is known only at the end."""
        return int(self.headers["x-credits-cost"]) if "x-credits-cost" in self.headers else None


def request(key: str, what: str = "ok", *, body: bytes = b"{}", method: str = "POST", extra: str = "") -> bytes:
    """The bytes of a call to /call/{what}."""
    head = f"{method} /call/{what} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


class Caller:
    """One connection. `open` raises OSError where nobody listens."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.usable = True
        self.answer = Answer()

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def call(self, data: bytes) -> Answer:
        """Send a request and read its answer, never longer than PATIENCE_SECONDS."""
        self.send(data)
        return await self.read()

    async def read(self) -> Answer:
        """The next answer; as far as it has come, it is `answer` meanwhile. A connection that breaks is no exception:
        the answer says so."""
        self.answer = answer = Answer()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._read(answer)
                answer.whole = True
        except TimeoutError:
            pytest.fail(f"no answer in {PATIENCE_SECONDS} s: {answer}")
        except (OSError, EOFError):
            pass
        self.usable = answer.whole and answer.headers.get("connection") != "close"
        return answer

    async def _read(self, answer: Answer) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
        answer.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        answer.status = int(line.split(" ")[1])
        if answer.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                answer.body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        else:
            answer.body = await self.reader.readexactly(int(answer.headers.get("content-length", 0)))


async def call(port: int, data: bytes) -> Answer:
    """One request on a connection of its own. Status 0 where nobody listens."""
    try:
        caller = await Caller.open(port)
    except OSError:
        return Answer()
    async with caller:
        return await caller.call(data)
