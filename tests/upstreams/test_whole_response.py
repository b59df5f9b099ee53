"""The short cut for whole answers means what llhttp and our rules mean, or stands aside."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.upstreams.http1_response import Http1Response
from gateway.upstreams.response_parser import COMPLETE, ResponseParser
from gateway.upstreams.whole_response import read_whole

PLAIN = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Type: a/b\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello"


def read_slowly(data: bytes):
    """What the full parser makes of `data`: split in the status line, so that the short cut never sees it whole."""
    parser, response = ResponseParser(1 << 20), Http1Response(None, None)
    parser.expect(response, is_head=False, upgrade=b"")
    with contextlib.suppress(UpstreamError):
        parser.feed(data[:5])
        parser.feed(data[5:])
        if parser.state == COMPLETE and parser.reusable:
            return response.status, response.headers, response.content_length, b"".join(response.chunks)
    return None


def test_a_plain_answer_takes_the_short_cut():
    status, headers, length, body = read_whole(PLAIN, {})
    assert (status, length, body) == (200, 5, b"hello")
    assert headers == [
        (b"server", b"x"),
        (b"content-type", b"a/b"),
        (b"content-length", b"5"),
        (b"connection", b"keep-alive"),
    ]
    assert read_slowly(PLAIN) == (status, headers, length, body)


@pytest.mark.parametrize(
    "change",
    [
        (b"HTTP/1.1 200", b"HTTP/1.0 200"),
        (b"HTTP/1.1 200", b"HTTP/9.9 200"),
        (b"200 OK", b"100 Continue"),
        (b"200 OK", b"101 Switching"),
        (b"200 OK", b"204 None"),
        (b"200 OK", b"304 None"),
        (b"200 OK", b"2000 OK"),
        (b"Length: 5", b"Length: 4"),
        (b"Length: 5", b"Length: 6"),
        (b"Length: 5", b"Length: +5"),
        (b"Length: 5", b"Length: 5, 5"),
        (b"Length: 5", b"Length: 5\r\nContent-Length: 5"),
        (b"Length: 5", b"Length: 5\r\nTransfer-Encoding: chunked"),
        (b"Content-Length: 5\r\n", b""),
        (b"keep-alive", b"close"),
        (b"keep-alive", b"x-odd"),
        (b"Server: x", b"Server : x"),
        (b"Server: x", b" Server: x"),
        (b"Server: x", b"Ser\0ver: x"),
        (b"Server: x", b"Server: x\ny: z"),
        (b"Server: x", b"Server: x\ry"),
        (b"Server: x", b"Server: x\r\n folded"),
        (b"Server: x", b": x"),
        (b"Server: x", b"no colon"),
        (b"hello", b"hello!"),
        (b"hello", b"hell"),
    ],
)
def test_what_is_not_plain_is_left_to_the_full_parser(change):
    data = PLAIN.replace(*change)
    assert data != PLAIN
    assert read_whole(data, {}) is None


@given(st.data())
def test_what_the_short_cut_accepts_the_full_parser_accepts_alike(data):
    mutated = bytearray(PLAIN)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        byte = data.draw(st.sampled_from(b"\r\n\0\t :;,059aZ\x7f\x80\xff-+"))
        if data.draw(st.booleans()):
            mutated[place] = byte
        else:
            mutated.insert(place, byte)
    whole = read_whole(bytes(mutated), {})
    if whole is not None:
        assert read_slowly(bytes(mutated)) == whole


def test_lines_are_remembered_without_bound_being_passed():
    known: dict = {}
    for n in range(1_000):
        assert read_whole(PLAIN.replace(b"Server: x", b"Server: %d" % n), known) is not None
    assert len(known) <= 64
