"""Every wait for a caller ends. Times are short here; the ticker is looked at every 20 ms."""

import asyncio
import json
import time

import pytest

from tests.server.harness import Recorder, serving, wait_until

GET = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
LATE_SECONDS = 15
"""Who is not cut off by now never is. The waits here are fractions of a second, but a machine may be busy."""


async def hanging(scope, receive, send):
    await asyncio.sleep(60)


def seconds_until_closed(caller):
    before = time.monotonic()
    data = caller.rest()
    return time.monotonic() - before, data


def test_a_silent_connection_is_closed_without_a_word():
    with serving(head_timeout_seconds=0.2) as server:
        seconds, data = seconds_until_closed(server.caller())
        assert data == b""
        assert 0.15 < seconds < LATE_SECONDS


def test_half_a_head_is_answered_408():
    with serving(head_timeout_seconds=0.2) as server:
        caller = server.call(GET[:20])
        status, headers, body = caller.response()
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["status"] == 408
        assert caller.rest() == b""


@pytest.mark.parametrize("first", [b"", GET])
def test_a_head_that_drips_is_timed_from_its_first_byte_on(first):
    with serving(head_timeout_seconds=0.3) as server:
        caller = server.caller()
        if first:
            assert caller.send(first).response()[0] == 200
        caller.socket.settimeout(0.05)
        before = time.monotonic()
        for byte in b"GET / HTTP/1.1\r\nX-A: " + b"a" * 1000:
            caller.send(bytes([byte]))
            try:
                assert caller.more()
                break
            except TimeoutError:
                assert time.monotonic() - before < LATE_SECONDS
        assert caller.buffer.startswith(b"HTTP/1.1 408")
        assert len(server.app.requests) == bool(first)


def test_an_idle_connection_is_closed_after_the_keep_alive_time():
    with serving(keep_alive_timeout_seconds=0.3, head_timeout_seconds=60) as server:
        caller = server.call(GET)
        caller.response()
        seconds, data = seconds_until_closed(caller)
        assert data == b""
        assert 0.2 < seconds < LATE_SECONDS


def test_a_request_resets_the_keep_alive_time():
    with serving(keep_alive_timeout_seconds=0.4) as server:
        caller = server.caller()
        before = time.monotonic()
        while time.monotonic() - before < 0.8:
            assert caller.send(GET).response()[0] == 200
            time.sleep(0.1)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_stops_is_answered_408_and_the_application_stopped(chunked):
    head = POST if not chunked else POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")
    with serving(body_idle_timeout_seconds=0.2) as server:
        caller = server.call(head + b"5\r\nhello\r\n")
        status, headers, _ = caller.response()
        assert (status, headers["connection"]) == (408, "close")
        assert caller.rest() == b""
        wait_until(lambda: not server.tasks)
        assert server.app.requests == []


@pytest.mark.parametrize(("pace", "piece"), [(0, b"x"), (500, b"x" * 100)])
def test_a_body_that_keeps_coming_has_all_the_time(pace, piece):
    with serving(body_idle_timeout_seconds=0.3, body_min_bytes_per_second=pace) as server:
        caller = server.call(POST.replace(b"100", b"%d" % (20 * len(piece))))
        for _ in range(20):
            time.sleep(0.06)
            caller.send(piece)
        assert caller.response()[0] == 200


CHUNKED = POST.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (POST.replace(b"100", b"1000000") + b"x", b"x"),
        (POST.replace(b"100", b"1000000") + b"x" * 500_000, b"x"),  # haste at first buys no time later
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"1\r\nx\r\n1;a=", b"b"),
        (CHUNKED + b"1\r\nx\r\n0\r\nX-A: ", b"b"),
        (CHUNKED + b"7a120\r\n" + b"x" * 500_000 + b"\r\n0\r\nX-A: ", b"b"),
    ],
)
def test_a_body_that_trickles_is_answered_408(begin, drop):
    with serving(body_idle_timeout_seconds=0.4, body_min_bytes_per_second=500) as server:
        caller = server.call(begin)
        before = time.monotonic()
        caller.socket.settimeout(0.05)
        while True:
            assert time.monotonic() - before < LATE_SECONDS
            caller.send(drop)
            try:
                assert caller.more()
                break
            except TimeoutError:
                pass
        assert time.monotonic() - before > 0.3
        assert caller.buffer.startswith(b"HTTP/1.1 408")
        wait_until(lambda: not server.tasks)
        assert server.app.requests == []


def test_time_that_the_application_takes_does_not_count_against_the_callers_pace():
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await Recorder()(scope, receive, send)

    with serving(app, body_idle_timeout_seconds=0.4, body_min_bytes_per_second=100_000_000) as server:
        caller = server.call(POST.replace(b"100", b"400000") + b"x" * 300_000)
        (connection,) = wait_until(lambda: server.connections)
        wait_until(lambda: connection._reading_paused)
        time.sleep(0.6)
        server.in_loop(gate.set)
        wait_until(lambda: not connection._reading_paused)
        time.sleep(0.1)
        assert caller.send(b"x" * 100_000).response()[0] == 200


def test_a_caller_is_not_late_while_the_application_does_not_read():
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await Recorder()(scope, receive, send)

    with serving(app, body_idle_timeout_seconds=0.1) as server:
        size = 1_000_000
        caller = server.call(POST.replace(b"100", b"%d" % size) + b"x" * 300_000)
        (connection,) = wait_until(lambda: server.connections)
        wait_until(lambda: connection._reading_paused)
        time.sleep(0.3)
        server.in_loop(gate.set)
        assert caller.send(b"x" * (size - 300_000)).response()[0] == 200


def test_a_caller_is_not_late_before_it_was_told_to_continue():
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await Recorder()(scope, receive, send)

    with serving(app, body_idle_timeout_seconds=0.1) as server:
        caller = server.call(POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        time.sleep(0.3)
        server.in_loop(gate.set)
        caller.until(b"\r\n\r\n")
        assert caller.send(b"x" * 100).response()[0] == 200


def test_a_running_application_has_all_the_time():
    async def app(scope, receive, send):
        await asyncio.sleep(0.4)
        await Recorder()(scope, receive, send)

    names = ("head_timeout", "body_idle_timeout", "write_timeout", "keep_alive_timeout")
    with serving(app, **{f"{name}_seconds": 0.1 for name in names}) as server:
        assert server.call(GET).response()[0] == 200


async def endless(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})


async def large(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20000000")]})
    await send({"type": "http.response.body", "body": b"x" * 20_000_000})


@pytest.mark.parametrize("app", [endless, large])
def test_a_caller_who_takes_nothing_is_dropped(app):
    with serving(app, write_timeout_seconds=0.4) as server:
        server.caller(receive_buffer=65_536).send(GET)
        before = time.monotonic()
        wait_until(lambda: server.connections)
        wait_until(lambda: not server.connections and not server.tasks)
        assert 0.3 < time.monotonic() - before < LATE_SECONDS


def test_a_caller_who_takes_little_by_little_is_served():
    with serving(large, write_timeout_seconds=0.4, keep_alive_timeout_seconds=5) as server:
        caller = server.caller(receive_buffer=65_536).send(GET)
        before = time.monotonic()
        while time.monotonic() - before < 1.2:
            caller.socket.recv(300_000)
            time.sleep(0.05)
        assert server.connections


def test_a_refused_caller_who_never_closes_is_dropped():
    with serving() as server:
        caller = server.call(b"NONSENSE\r\n\r\n")
        assert caller.response()[0] == 400
        wait_until(lambda: not server.connections)


@pytest.mark.parametrize("early", [True, False])
def test_the_end_of_an_answer_reaches_a_caller_who_takes_it_late(early, monkeypatch):
    monkeypatch.setattr("gateway.server.connection.LINGER_SECONDS", 0.1)
    request = POST if early else GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\nmore")
    with serving(large) as server:
        caller = server.caller(receive_buffer=65_536).send(request)
        (connection,) = wait_until(lambda: server.connections)
        wait_until(lambda: connection.leaving)
        time.sleep(0.5)
        status, headers, body = caller.response()
        assert (status, headers["connection"], len(body)) == (200, "close", 20_000_000)
        assert caller.rest() == b""
        wait_until(lambda: not server.connections)


def test_a_caller_who_never_takes_the_end_of_an_answer_is_dropped(monkeypatch):
    monkeypatch.setattr("gateway.server.connection.LINGER_SECONDS", 0.1)
    with serving(large, write_timeout_seconds=0.4) as server:
        server.caller(receive_buffer=65_536).send(POST)
        (connection,) = wait_until(lambda: server.connections)
        wait_until(lambda: connection.leaving)
        wait_until(lambda: not server.connections)


def test_the_good_are_served_beside_the_slow():
    with serving(head_timeout_seconds=0.5) as server:
        slow = [server.call(GET[:10]) for _ in range(100)]
        good = server.caller()
        assert [good.send(GET).response()[0] for _ in range(50)] == [200] * 50
        assert [caller.response()[0] for caller in slow] == [408] * 100
