"""Answers that are no answers: each way begins with what should have been said and spoils it.

| way | what arrives |
|---|---|
| not_json | text |
| html | a proxy's error page: 502 with text/html |
| empty | a head and no byte of body |
| truncated | half of the body, then the end of the connection |
| not_an_object | a list |
| nothing | `{}` |
| new_fields | members that no description knows: to be ignored |
"""

from __future__ import annotations

import json
from collections.abc import Callable

from gateway.sandbox.stripe.answers import Answer, to_json
from gateway.sandbox.wire import Connection, response

PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


def written(answer: Answer) -> bytes:
    """The whole response as bytes."""
    return response(answer.status, answer.body, answer.headers)


async def write_malformed(answer: Answer, how: str, connection: Connection) -> None:
    """Write the answer, spoilt."""
    await connection.write(WAYS[how](answer))
    if how == "truncated":
        connection.close()


def _other(status: int, body: bytes, content_type: str) -> bytes:
    return response(status, body, {"Content-Type": content_type})


def _truncated(answer: Answer) -> bytes:
    whole = written(answer)
    return whole[: len(whole) - len(answer.body) // 2]


def _new_fields(answer: Answer) -> bytes:
    document = {**json.loads(answer.body), "member_of_tomorrow": {"object": "thing_of_tomorrow", "id": "tmw_1"}}
    return response(answer.status, to_json(document), answer.headers)


WAYS: dict[str, Callable[[Answer], bytes]] = {
    "not_json": lambda answer: _other(answer.status, b"upstream connect error or disconnect", "text/plain"),
    "html": lambda _: _other(502, PAGE, "text/html"),
    "empty": lambda answer: _other(answer.status, b"", "application/json"),
    "truncated": _truncated,
    "not_an_object": lambda answer: response(answer.status, b"[]", answer.headers),
    "nothing": lambda answer: response(answer.status, b"{}", answer.headers),
    "new_fields": _new_fields,
}
