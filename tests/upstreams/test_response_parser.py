"""The parser alone, without sockets: the same answer however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadUpstreamResponse
from gateway.upstreams.http1_response import Http1Response
from gateway.upstreams.response_parser import BODY, COMPLETE, HEAD, ResponseParser
from tests.upstreams.hostile import CHUNKED, OK, WITH_TRAILERS, headed

MESSAGES = {
    "length": headed(b"Content-Type: text/plain", b"X-Odd:  padded \t", b"Content-Length: 5", body=b"hello"),
    "chunked": CHUNKED + b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n",
    "trailers": WITH_TRAILERS,
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: a\r\n\r\n" + headed(b"Content-Length: 2"),
    "204": b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
}


def parsed(*segments: bytes, head_max_bytes: int = 65_536, is_head: bool = False) -> tuple[Any, ...]:
    parser = ResponseParser(head_max_bytes)
    response = Http1Response(None, None)
    parser.expect(response, is_head=is_head, upgrade=b"")
    for segment in segments:
        parser.feed(segment)
    head = None if parser.state == HEAD else (response.status, response.headers, response.content_length)
    return parser.state, parser.reusable, head, b"".join(response.chunks), response.trailers


@pytest.mark.parametrize("name", MESSAGES)
def test_an_answer_is_the_same_however_it_is_cut(name: str) -> None:
    message = MESSAGES[name]
    whole = parsed(message)
    assert whole[0] == COMPLETE
    assert whole[1] is True
    for i in range(1, len(message)):
        assert parsed(message[:i], message[i:]) == whole
        assert parsed(message[:i])[0] != COMPLETE, "nothing is complete before its last byte"
    assert parsed(*[message[i : i + 1] for i in range(len(message))]) == whole


@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=6))
def test_no_bytes_break_the_parser(data: bytes, cuts: list[int]) -> None:
    for prefix in (b"", OK, CHUNKED, headed(b"Content-Length: 50", body=b"")):
        message = prefix + data
        edges = [0, *sorted(cuts), len(message)]
        segments = [message[a:b] for a, b in pairwise(edges) if a < b]
        try:
            parsed(*segments)
        except BadUpstreamResponse:
            pass


def test_names_are_lower_case_and_values_bare() -> None:
    _, _, head, _, _ = parsed(headed(b"X-CUSTOM-Thing:  a b \t ", b"ETag:x", b"Content-Length: 2"))
    assert head[1] == [(b"x-custom-thing", b"a b"), (b"etag", b"x"), (b"content-length", b"2")]


@pytest.mark.parametrize("size", [999, 1000, 1001, 3000])
def test_the_limit_of_a_head_is_exact_in_one_read(size: int) -> None:
    head = headed(b"A: ", b"Content-Length: 2", body=b"")
    fields = head.partition(b"\r\n")[2][:-2]
    message = head.replace(b"A: ", b"A: " + b"a" * (size - len(fields))) + b"ok"
    if size <= 1000:
        assert parsed(message, head_max_bytes=1000)[0] == COMPLETE
    else:
        with pytest.raises(BadUpstreamResponse):
            parsed(message, head_max_bytes=1000)


def test_a_head_may_be_small_beside_a_big_body() -> None:
    message = headed(b"Content-Length: 100000", body=bytes(100_000))
    assert parsed(message, head_max_bytes=1000)[0] == COMPLETE


def test_a_head_answer_that_promises_a_body_spoils_the_connection() -> None:
    """A faulty upstream sends that body, perhaps a moment later: somebody else would get it for an answer."""
    assert parsed(headed(b"Content-Length: 0", body=b""), is_head=True)[:2] == (COMPLETE, True)
    assert parsed(headed(b"Content-Length: 2", body=b""), is_head=True)[:2] == (COMPLETE, False)
    assert parsed(headed(b"Content-Length: 2", body=b"ok"), is_head=True)[:2] == (COMPLETE, False)
    assert parsed(CHUNKED + b"2\r\n", is_head=True)[:2] == (COMPLETE, False)
    assert parsed(CHUNKED + b"0\r\n\r\n", is_head=True)[:2] == (COMPLETE, False)


def test_a_205_or_204_promises_no_body() -> None:
    for status in (204, 205):
        message = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nA: b\r\n\r\nok" % status
        state, reusable, head, body, _ = parsed(message)
        assert (state, reusable, body) == (COMPLETE, False, b"")
        assert head[1] == [(b"a", b"b")]


def test_an_idle_parser_keeps_no_body_alive() -> None:
    parser = ResponseParser(1000)
    response = Http1Response(None, None)
    parser.expect(response, is_head=False, upgrade=b"")
    parser.feed(headed(b"Content-Length: 2"))
    assert not hasattr(parser, "_response")


def test_a_cut_close_delimited_head_is_refused() -> None:
    parser = ResponseParser(1000)
    parser.expect(Http1Response(None, None), is_head=False, upgrade=b"")
    parser.feed(OK)
    with pytest.raises(BadUpstreamResponse):
        parser.feed_eof()
    assert parser.state != BODY
