"""Answers that are no answers: each way begins with what should have been said and spoils it.

| way | what arrives |
|---|---|
| not_json | text |
| html | a proxy's error page: 502 with text/html |
| empty | a head and no byte of body |
| truncated | half of the body, then the end of the connection |
| long_length | the body, announced as ten bytes longer; the connection stays open |
| short_length | the body, announced as ten bytes shorter |
| extra_bytes | the answer, and bytes that nobody asked for behind it |
| bad_head | something that is not HTTP |
| huge | a valid object with `size_bytes` of padding |
| drip | the answer byte by byte, `seconds` between them |
| wrong_types | every number, flag and text in the type of another |
| missing_data | `meta` without `data` |
| null_data | `data` is null |
| not_an_object | a list |
| nothing | `{}` |
| new_fields | members that no description knows: to be ignored |
| new_code | a verdict that no description knows: valid false, code SOMETHING_NEW |
| contradiction | valid and code of a verdict say different things |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from gateway.sandbox.unkey.answers import Answer, to_json
from gateway.sandbox.wire import Connection, response

LIE_BYTES = 10
PIECE_BYTES = 1 << 16
PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


def written(answer: Answer) -> bytes:
    """The whole response as bytes."""
    return response(answer.status, answer.body, {"Content-Type": answer.content_type, **answer.headers})


async def write_malformed(answer: Answer, how: str, connection: Connection, *, seconds: float, size_bytes: int) -> None:
    """Write the answer, spoilt."""
    if how == "drip":
        await _drip(answer, connection, seconds)
    elif how == "huge":
        await _write_huge(answer, connection, size_bytes)
    else:
        await connection.write(WAYS[how](answer))
        if how == "truncated":
            connection.close()


async def _drip(answer: Answer, connection: Connection, seconds: float) -> None:
    for byte in written(answer):
        await connection.write(bytes((byte,)))
        await asyncio.sleep(seconds)


async def _write_huge(answer: Answer, connection: Connection, size_bytes: int) -> None:
    start, end = b'{"padding":"', b'",' + answer.body[1:]
    length = str(len(start) + size_bytes + len(end))
    await connection.write(_with_length(answer, length) + start)
    for at in range(0, size_bytes, PIECE_BYTES):
        await connection.write(b"x" * min(PIECE_BYTES, size_bytes - at))
    await connection.write(end)


def _with_length(answer: Answer, length: str) -> bytes:
    """The head alone, announcing that length."""
    return response(answer.status, b"", {"Content-Type": answer.content_type, "Content-Length": length})


def _text(answer: Answer) -> bytes:
    return written(Answer(answer.status, b"upstream connect error or disconnect", "text/plain"))


def _page(_: Answer) -> bytes:
    return written(Answer(502, PAGE, "text/html"))


def _half(answer: Answer) -> bytes:
    whole = written(answer)
    return whole[: len(whole) - len(answer.body) // 2]


def _lengthened(answer: Answer) -> bytes:
    return _with_length(answer, str(len(answer.body) + LIE_BYTES)) + answer.body


def _shortened(answer: Answer) -> bytes:
    return _with_length(answer, str(max(0, len(answer.body) - LIE_BYTES))) + answer.body


def _changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Answer], bytes]:
    """A way that is well-formed JSON of the wrong content."""

    def spoil(answer: Answer) -> bytes:
        return written(Answer(answer.status, to_json(change(json.loads(answer.body))), answer.content_type))

    return spoil


def _retyped(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _retyped(member) for name, member in value.items()}
    if isinstance(value, list):
        return {str(number): _retyped(member) for number, member in enumerate(value)}
    return [value] if isinstance(value, str) else str(value)


def _with_data(document: dict[str, Any], **members: Any) -> dict[str, Any]:
    data = document.get("data")
    return {**document, "data": {**data, **members}} if isinstance(data, dict) else document


def _contradicted(document: dict[str, Any]) -> dict[str, Any]:
    data = document.get("data")
    valid = isinstance(data, dict) and data.get("valid") is True
    return _with_data(document, valid=not valid)


WAYS: dict[str, Callable[[Answer], bytes]] = {
    "not_json": _text,
    "html": _page,
    "empty": lambda answer: written(Answer(answer.status, b"")),
    "truncated": _half,
    "long_length": _lengthened,
    "short_length": _shortened,
    "extra_bytes": lambda answer: written(answer) + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "bad_head": lambda _: b"\x16\x03\x01 this is not HTTP\r\n\r\n",
    "huge": written,
    "drip": written,
    "wrong_types": _changed(_retyped),
    "missing_data": _changed(lambda document: {"meta": document["meta"]}),
    "null_data": _changed(lambda document: {**document, "data": None}),
    "not_an_object": _changed(lambda document: [document]),
    "nothing": _changed(lambda _: {}),
    "new_fields": _changed(lambda document: {**_with_data(document, novelty={"is": [True]}), "novelty": 1}),
    "new_code": _changed(lambda document: _with_data(document, valid=False, code="SOMETHING_NEW")),
    "contradiction": _changed(_contradicted),
}
"""By name. `huge` and `drip` are written piece by piece."""
