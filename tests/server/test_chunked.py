"""Chunked bodies, without sockets."""

import time

import pytest

from gateway.errors import GatewayError
from gateway.server.chunked import ChunkedBody
from tests.server.harness import limits

LIMITS = limits(head_max_bytes=1024, head_max_fields=3)
BODY = b'5;a;b=c;d="e f"\r\nhello\r\n00006\r\n world\r\n0\r\nX-Gateway-User: admin\r\nX: y\r\n\r\nREST'


def decode(*pieces):
    body = ChunkedBody(LIMITS)
    payload = b""
    for position, piece in enumerate(pieces):
        payload += body.feed(piece)
        if body.complete:
            return payload, body.rest + b"".join(pieces[position + 1 :])
    return payload, None


def test_a_body_is_decoded_however_it_is_cut():
    assert decode(BODY) == (b"hello world", b"REST")
    assert decode(*(BODY[i : i + 1] for i in range(len(BODY)))) == (b"hello world", b"REST")
    for first in range(len(BODY)):
        for second in range(first, len(BODY), 7):
            assert decode(BODY[:first], BODY[first:second], BODY[second:]) == (b"hello world", b"REST")


MALFORMED = [
    b"0\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5;\r\nhello\r\n",
    b"5; a\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b" 5\r\nhello\r\n",
    b"+5\r\nhello\r\n",
    b"-5\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"1_0\r\nhello\r\n",
    b"\r\n",
    b"g\r\n",
    b"ffffffffffffffff1\r\nhello\r\n",
    b"10000000000000000\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhelloX",
    b"5\r\nhello\rX",
    b"5;a\0b\r\nhello\r\n",
    b'5;a="\n"\r\nhello\r\n',
    b"5;a\rb\r\nhello\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\nX\r\n\r\n",
    b"0\r\n folded\r\n\r\n",
    b"0\r\nX: a\0\r\n\r\n",
    b"0\r\nX: a\nY: b\r\n\r\n",
    b"0\r\n" + b"X: y\r\n" * 4 + b"\r\n",
    b"z",
    b"5\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=repr)
def test_a_malformed_body_is_refused_however_it_is_cut(data):
    with pytest.raises(GatewayError):
        decode(data)
    with pytest.raises(GatewayError):
        decode(*(data[i : i + 1] for i in range(len(data))))


@pytest.mark.parametrize(
    "data",
    [
        b"5;a=" + b"b" * 70_000,
        b"5;a=" + b"b" * 70_000 + b"\r\nhello\r\n",
        b"1;abcdefg\r\nx\r\n" * 600,
        b"0\r\nX: " + b"a" * 70_000,
        b"0\r\nX: " + b"a" * 2000 + b"\r\n\r\n",
    ],
)
def test_extensions_and_trailers_are_bounded(data):
    with pytest.raises(GatewayError) as raised:
        decode(data)
    assert raised.value.status == 431


def test_many_tiny_chunks_take_linear_time():
    data = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    before = time.process_time()
    assert decode(data) == (b"x" * 20_000, b"")
    assert time.process_time() - before < 1
