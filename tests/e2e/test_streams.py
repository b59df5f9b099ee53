"""Bodies through a real gateway: as they come, byte for byte, both ways."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import threading
import time

import pytest

from tests.e2e.audit import Books, open_holds
from tests.e2e.harness import count, gateway, settings, until
from tests.upstreams import hostile

BIG_BYTES = count(small=50, full=1_000) * 1_000_000
PIECE = os.urandom(1_000_000)
EVENTS = 20
PATIENCE_SECONDS = 30


class Events:
    """An upstream that sends one event at a time, when the test says so."""

    def __init__(self) -> None:
        self._next = threading.Semaphore(0)

    def release(self) -> None:
        self._next.release()

    def __call__(self, peer, seen) -> bool:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(EVENTS):
            assert self._next.acquire(timeout=PATIENCE_SECONDS)
            event = b"id: %d\ndata: {}\n\n" % number
            peer.send(b"%x\r\n%b\r\n" % (len(event), event))
        assert self._next.acquire(timeout=PATIENCE_SECONDS)
        peer.send(b"0\r\nX-Credits-Used: 3\r\n\r\n")
        return True


def send_big(peer, seen) -> bool:
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG_BYTES)
    for _ in range(BIG_BYTES // len(PIECE)):
        peer.send(PIECE)
    return True


def hash_body(peer, seen) -> bool:
    """Reads a body of any size without keeping it, and answers its SHA-256."""
    digest = hashlib.sha256(peer.buffer)
    left = int(seen.header("content-length")[0]) - len(peer.buffer)
    peer.buffer = b""
    while left > 0:
        data = peer.sock.recv(min(left, 1 << 20))
        if not data:
            return False
        digest.update(data)
        left -= len(data)
    peer.send(hostile.headed(b"Content-Length: 64", body=digest.hexdigest().encode()))
    return True


@pytest.fixture(scope="module")
def scripts():
    added = {"big-body": send_big, "hash-body": hash_body}
    with pytest.MonkeyPatch.context() as patch:
        for name, script in added.items():
            patch.setitem(hostile.SCRIPTS, name, script)
        patch.setattr(hostile, "READS_NO_BODY", hostile.READS_NO_BODY | {"hash-body"})
        yield hostile.SCRIPTS


@pytest.fixture(scope="module")
def upstream(scripts):
    with hostile.ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def served(upstream, tmp_path_factory):
    directory = tmp_path_factory.mktemp("streams")
    methods = ["GET", "HEAD", "POST"]
    routes = [
        {"path": "/call/{what}", "methods": methods, "upstream": "main", "cost": 1, "body_max_bytes": 2 * BIG_BYTES},
        {
            "path": "/told/{what}",
            "methods": methods,
            "upstream": "main",
            "cost": {"hold": 20, "settle": "X-Credits-Used"},
        },
    ]
    with gateway(directory, settings(directory, upstream.url, routes=routes)) as running:
        running.secret, running.key_id = running.create_key(1_000_000)
        running.start()
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.errors


@contextlib.contextmanager
def asking(served, target, method="GET", body=None, **headers):
    """The answer, whose body is still to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body, {"X-API-Key": served.secret, **named})
        yield connection.getresponse()
    finally:
        connection.close()


def test_each_event_arrives_before_the_next_one_is_sent(served, monkeypatch):
    """Nothing buffers: the upstream sends an event only after the caller has had the one before."""
    events = Events()
    monkeypatch.setitem(hostile.SCRIPTS, "events", events)
    with asking(served, "/told/events") as answer:
        assert answer.getheader("content-type") == "text/event-stream"
        assert answer.getheader("x-credits-cost") is None
        for number in range(EVENTS):
            released_at = time.monotonic()
            events.release()
            expected = b"id: %d\ndata: {}\n\n" % number
            assert b"".join(answer.readline() for _ in range(3)) == expected
            assert time.monotonic() - released_at < 5
        events.release()
        assert answer.read() == b""
        request_id = answer.getheader("x-request-id")
    until(lambda: not open_holds(served.database))
    assert Books(served.database).charged[request_id] == 3


def test_a_head_does_not_wait_for_its_body(served, monkeypatch):
    events = Events()
    monkeypatch.setitem(hostile.SCRIPTS, "waits", events)
    with asking(served, "/call/waits") as answer:
        assert (answer.status, answer.getheader("x-credits-cost")) == (200, "1")
        for _ in range(EVENTS + 1):
            events.release()
        assert answer.read().count(b"data") == EVENTS


@pytest.mark.parametrize("name", ["chunked", "trailers", "trailers-bytewise"])
def test_a_chunked_answer_is_whole_and_its_trailers_end_here(served, name):
    with asking(served, f"/told/{name}") as answer:
        assert answer.read() in (b"hello", b"hello, world")
        fields = {field.lower() for field, _ in answer.getheaders()}
        assert not {"trailer", "x-credits-used", "x-b"} & fields


def test_compressed_bytes_are_not_touched(served, monkeypatch):
    """Never decompressed: no bomb goes off here, and what the caller checks is what the upstream made."""
    body = gzip.compress(bytes(10_000_000))
    lines = (b"Content-Encoding: gzip", b"ETag: x", b"Content-Length: %d" % len(body))
    monkeypatch.setitem(hostile.SCRIPTS, "gzipped", hostile.answers(hostile.headed(*lines, body=body)))
    with asking(served, "/call/gzipped", Accept_Encoding="gzip") as answer:
        assert answer.getheader("content-encoding") == "gzip"
        assert answer.getheader("content-length") == str(len(body))
        assert answer.read() == body


def test_a_big_answer_is_byte_identical(served):
    with asking(served, "/call/big-body") as answer:
        digest, total = hashlib.sha256(), 0
        while chunk := answer.read(1 << 20):
            digest.update(chunk)
            total += len(chunk)
    expected = hashlib.sha256()
    for _ in range(BIG_BYTES // len(PIECE)):
        expected.update(PIECE)
    assert (total, digest.hexdigest()) == (BIG_BYTES, expected.hexdigest())


def test_a_big_request_is_byte_identical(served):
    expected = hashlib.sha256()
    for _ in range(BIG_BYTES // len(PIECE)):
        expected.update(PIECE)
    pieces = (PIECE for _ in range(BIG_BYTES // len(PIECE)))
    with asking(served, "/call/hash-body", "POST", pieces, Content_Length=str(BIG_BYTES)) as answer:
        assert answer.read().decode() == expected.hexdigest()


def test_each_chunk_goes_through_before_the_next_one_is_sent(served):
    """Both ways at once: the upstream echoes each chunk of a request that is still being sent."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_SECONDS)
    try:
        connection.putrequest("POST", "/call/duplex")
        connection.putheader("X-API-Key", served.secret)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        sock = connection.sock  # http.client lets go of it when the answer says that it is the last
        sock.sendall(b"7\r\nchunk 0\r\n")
        answer = connection.getresponse()
        assert answer.read(7) == b"chunk 0"
        for number in range(1, 10):
            sock.sendall(b"7\r\nchunk %d\r\n" % number)
            assert answer.read(7) == b"chunk %d" % number
        sock.sendall(b"0\r\n\r\n")
        assert answer.read() == b""
    finally:
        connection.close()


BODILESS = [
    # method, script, status, content-length (205: an empty chunked body says the same, RFC 9110 section 15.3.6)
    ("HEAD", "head", 200, "1000"),
    ("HEAD", "head-chunked", 200, None),
    ("GET", "204", 204, None),
    ("GET", "304", 304, "1000"),
    ("GET", "205", 205, None),
    ("GET", "empty", 200, "0"),
]


@pytest.mark.parametrize(("method", "name", "status", "length"), BODILESS)
def test_an_answer_without_a_body_is_complete_with_its_head(served, method, name, status, length):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, f"/call/{name}", headers={"X-API-Key": served.secret})
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("content-length"), answer.read()) == (status, length, b"")
        connection.request("GET", "/call/ok", headers={"X-API-Key": served.secret})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"ok"), "the connection is out of step"
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["continue", "early-hints"])
def test_an_interim_answer_is_not_taken_for_the_answer(served, name):
    with asking(served, f"/call/{name}") as answer:
        assert (answer.status, answer.read()) == (200, b"ok")
        assert answer.getheader("link") is None


@pytest.mark.parametrize(
    ("name", "body"), [("close-delimited", b"to the end"), ("close-announced", b"ok"), ("http-1.0", b"ok")]
)
def test_an_upstream_that_ends_its_body_by_closing_is_understood(served, name, body):
    with asking(served, f"/call/{name}") as answer:
        assert answer.read() == body
