"""A caller that shows every byte of the answer: no client library lets through what the sandbox does wrong."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    """As it stood on the wire, chunk framing included."""

    @property
    def document(self):
        return json.loads(self.body)


async def exchange(port, method, path, *, body=None, headers=None) -> Answer:
    """One call on a connection of its own, read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(method, path, body=body, headers={"Connection": "close", **(headers or {})}))
        raw = await asyncio.wait_for(reader.read(), TIMEOUT_SECONDS)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    return parse(raw)


def request(method, path, *, body=None, headers=None) -> bytes:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "personas", "Content-Length": str(len(content)), **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


def parse(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Answer(int(first.split(" ")[1]), headers, body)


def dechunk(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    """The chunks and the trailers of a complete chunked body; fails on anything else."""
    chunks = []
    while True:
        size_line, _, body = body.partition(b"\r\n")
        size = int(size_line, 16)
        if size == 0:
            break
        assert body[size : size + 2] == b"\r\n", "a chunk has the announced size"
        chunks.append(body[:size])
        body = body[size + 2 :]
    assert body.endswith(b"\r\n"), "the trailer section is complete"
    fields = body.decode().split("\r\n")[:-2]
    return chunks, {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
