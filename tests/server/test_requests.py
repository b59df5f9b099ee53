"""Requests over real sockets: order, bodies, trailers, what is drained and what closes the connection."""

import asyncio
import json

import pytest

from tests.server.harness import Recorder, serving, wait_until

GET = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
TRAILERS = (
    b"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Gateway-User\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX-Gateway-User: admin\r\nAuthorization: Bearer other\r\nContent-Length: 3\r\n\r\n"
)


async def answer(send, status=200, body=b"", headers=None):
    headers = [(b"content-length", b"%d" % len(body))] if headers is None else headers
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refusing(scope, receive, send):
    """Answers without reading the body."""
    await answer(send, 401)


def test_one_connection_serves_request_after_request():
    with serving() as server:
        caller = server.caller()
        for number in range(1, 6):
            status, headers, body = caller.send(GET if number % 2 else POST).response()
            assert (status, json.loads(body)) == (200, {"n": number})
            assert "connection" not in headers
            assert headers["date"].endswith("GMT")
        assert len(server.connections) == 1


def test_the_scope_is_what_asgi_says():
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await answer(send)

    with serving(app) as server:
        caller = server.call(b"GET /a%20b?c=%20 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n\r\n")
        assert caller.response()[0] == 200
        scope = scopes[0]
        assert scope["client"] == caller.socket.getsockname()
        assert scope["server"] == ("127.0.0.1", server.port)
        expected = {"type": "http", "http_version": "1.1", "scheme": "http", "root_path": "", "method": "GET",
                    "path": "/a b", "raw_path": b"/a%20b", "query_string": b"c=%20",
                    "headers": [(b"host", b"a"), (b"x-a", b"1")]}  # fmt: skip
        assert expected.items() <= scope.items()
        assert "extensions" not in scope


def test_pipelined_requests_are_answered_in_order_and_never_run_together():
    running, overlaps, order = 0, 0, []

    async def app(scope, receive, send):
        nonlocal running, overlaps
        overlaps += running
        running += 1
        await asyncio.sleep(0.005)
        order.append(scope["raw_path"])
        running -= 1
        await answer(send, body=scope["raw_path"])

    with serving(app) as server:
        caller = server.call(b"".join(GET.replace(b" /1", b" /%d" % number) for number in range(20)))
        assert [caller.response()[2] for _ in range(20)] == [b"/%d" % number for number in range(20)]
        assert order == [b"/%d" % number for number in range(20)]
        assert overlaps == 0


def test_pipelined_bytes_are_held_back_in_bounds():
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await gate.wait()
        await answer(send)

    with serving(app) as server:
        caller = server.call(GET)
        caller.socket.setblocking(False)
        sent = 0
        try:
            while sent < 50_000_000:
                sent += caller.socket.send(GET * 1000)
        except BlockingIOError:
            pass
        assert sent < 50_000_000
        (connection,) = wait_until(lambda: server.connections)
        assert wait_until(lambda: connection._reading_paused)
        assert len(connection._unparsed) < 1_000_000
        server.in_loop(gate.set)
        caller.socket.settimeout(10)
        assert [caller.response()[0] for _ in range(100)] == [200] * 100


@pytest.mark.parametrize("cut", range(1, len(TRAILERS), 3))
def test_trailers_never_become_headers_wherever_the_segments_end(cut):
    with serving() as server:
        caller = server.caller().send_each(TRAILERS[:cut], TRAILERS[cut:] + GET)
        assert caller.response()[0] == caller.response()[0] == 200
        (_, _, _, headers, body), (_, target, _, _, _) = server.app.requests
        assert (body, target) == (b"hello", b"/1")
        assert [name for name, _ in headers] == [b"host", b"transfer-encoding", b"trailer"]


def test_trailers_in_one_segment_never_become_headers():
    with serving() as server:
        assert server.call(TRAILERS).response()[0] == 200
        assert b"x-gateway-user" not in dict(server.app.requests[0][3])


def test_a_body_that_nobody_read_is_never_a_request():
    with serving(refusing) as server:
        smuggled = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + GET
        caller = server.call(smuggled)
        status, headers, _ = caller.response()
        assert (status, headers["connection"]) == (401, "close")
        caller.send(b"x" * 100 + GET)
        assert caller.rest() == b""
        assert server.listener.server_state.total_requests == 1


def test_an_unread_body_that_has_arrived_does_not_cost_the_connection():
    with serving(refusing) as server:
        caller = server.call(POST + POST)
        for _ in range(2):
            status, headers, _ = caller.response()
            assert (status, "connection" in headers) == (401, False)


def test_a_refusal_reaches_a_caller_that_is_still_sending():
    with serving(refusing) as server:
        caller = server.call(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n")
        for _ in range(20):
            caller.send(b"x" * 50_000)
        assert caller.response()[0] == 401


def test_a_large_body_waits_in_the_socket_until_it_is_read():
    gate, taken = asyncio.Event(), []

    async def app(scope, receive, send):
        await gate.wait()
        more = True
        while more:
            message = await receive()
            taken.append(len(message["body"]))
            more = message["more_body"]
        await answer(send)

    size = 20_000_000
    with serving(app) as server:
        caller = server.call(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        caller.socket.setblocking(False)
        sent = 0
        try:
            while sent < size:
                sent += caller.socket.send(b"x" * min(100_000, size - sent))
        except BlockingIOError:
            pass
        assert sent < size
        (connection,) = wait_until(lambda: server.connections)
        assert wait_until(lambda: connection._reading_paused)
        assert connection.exchange._unread < 1_000_000
        server.in_loop(gate.set)
        caller.socket.settimeout(10)
        caller.send(b"x" * (size - sent))
        assert caller.response()[0] == 200
        assert sum(taken) == size
        assert max(taken) < 1_000_000


def test_continue_is_written_when_the_application_asks_for_the_body():
    with serving() as server:
        caller = server.call(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n")
        assert caller.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert caller.send(b"hello").response()[0] == 200
        assert server.app.requests[0][4] == b"hello"
        assert caller.send(GET).response()[0] == 200


def test_continue_is_not_written_for_a_refused_or_already_sent_body():
    with serving(refusing) as server:
        caller = server.call(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        status, headers, _ = caller.response()
        assert (status, headers["connection"]) == (401, "close")
    with serving() as server:
        caller = server.call(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        assert caller.response()[0] == 200


def test_http_1_0_is_answered_and_closed():
    with serving() as server:
        caller = server.call(b"GET / HTTP/1.0\r\n\r\n" + GET)
        status, headers, _ = caller.response()
        assert (status, headers["connection"]) == (200, "close")
        assert caller.rest() == b""
        assert len(server.app.requests) == 1


def test_connection_close_is_obeyed():
    with serving() as server:
        caller = server.call(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + GET)
        status, headers, _ = caller.response()
        assert (status, headers["connection"]) == (200, "close")
        assert caller.rest() == b""
        assert len(server.app.requests) == 1


def test_one_empty_line_before_a_request_is_forgiven_two_are_not():
    with serving() as server:
        assert server.call(b"\r\n" + GET).response()[0] == 200
        assert server.caller().send_each(b"\r", b"\n", GET[:5], GET[5:]).response()[0] == 200
        assert server.call(b"\r\n\r\n" + GET).response()[0] == 400
        assert server.caller().send_each(b"\r\n", b"\r\n", GET).response()[0] == 400


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \0", 400),
        (b"GET / HTTP/1.1\r\nX: a\rb", 400),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 17_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 17_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 100 + b"\r\n", 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("segments", [1, 2])
def test_what_can_not_become_a_head_is_refused_at_once(data, status, segments):
    with serving(head_timeout_seconds=60) as server:
        caller = server.caller()
        if segments == 1:
            caller.send(data)
        else:
            caller.send_each(data[:3], data[3:])
        got, headers, body = caller.response()
        assert (got, headers["connection"], json.loads(body)["status"]) == (status, "close", status)
        assert caller.rest() == b""
        assert server.app.requests == []


@pytest.mark.parametrize("before", [b"", b"\r\n"])
@pytest.mark.parametrize(("rest", "status"), [(b"\r\n", 400), (b"A: " + b"b" * 20_000, 431)])
def test_a_refused_head_request_gets_no_body(before, rest, status):
    with serving() as server:
        caller = server.call(before + b"HEAD / HTTP/1.1\r\n" + rest)
        assert caller.response("HEAD")[0] == status
        assert caller.rest() == b""


@pytest.mark.parametrize("broken", [b"5\r\nhelloX", b"zz\r\n", b"0\n\r\n"])
def test_a_broken_chunk_in_the_first_segment_never_starts_the_application(broken):
    with serving() as server:
        caller = server.call(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + broken)
        assert caller.response()[0] == 400
        assert server.listener.server_state.total_requests == 0


def test_a_broken_chunk_stops_the_application_and_is_told():
    told, began = [], []

    async def app(scope, receive, send):
        began.append(True)
        try:
            while True:
                await receive()
        except asyncio.CancelledError:
            told.append(await receive())
            raise

    with serving(app) as server:
        caller = server.call(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        wait_until(lambda: began)
        caller.send(b"zz\r\n" + GET)
        status, headers, _ = caller.response()
        assert (status, headers["connection"]) == (400, "close")
        assert caller.rest() == b""
        wait_until(lambda: told == [{"type": "http.disconnect"}])


@pytest.mark.parametrize("how", ["eof", "reset", "half"])
def test_a_caller_who_leaves_cancels_the_application(how):
    events, began = [], []

    async def app(scope, receive, send):
        began.append(await receive())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append((await receive())["type"])
            raise

    with serving(app) as server:
        caller = server.call(GET)
        wait_until(lambda: began)
        if how == "half":
            caller.socket.shutdown(1)
        else:
            caller.close(reset=how == "reset")
        wait_until(lambda: events == ["http.disconnect"])
        wait_until(lambda: not server.tasks and not server.connections)
        assert server.in_loop(lambda: server.listener.connections_open) == 0


def test_a_caller_who_leaves_before_the_first_step_leaves_no_task_behind():
    with serving(Recorder()) as server:
        for _ in range(100):
            server.call(GET).close(reset=True)
        wait_until(lambda: not server.tasks and not server.connections)


def test_what_runs_after_the_response_is_not_cancelled_by_the_caller_leaving():
    done = []

    async def app(scope, receive, send):
        await answer(send)
        await asyncio.sleep(0.05)
        done.append((await receive())["type"])

    with serving(app) as server:
        caller = server.call(GET)
        caller.response()
        caller.close()
        wait_until(lambda: done == ["http.disconnect"])


def test_connections_over_the_limit_are_told_so():
    with serving(connections_max=2) as server:
        callers = [server.call(GET) for _ in range(2)]
        assert [caller.response()[0] for caller in callers] == [200, 200]
        refused = server.caller()
        status, headers, body = refused.response()
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        assert json.loads(body)["type"].endswith("overloaded")
        assert refused.rest() == b""
        for caller in (refused, callers[0]):
            caller.close()
        wait_until(lambda: len(server.connections) == 1)
        assert server.call(GET).response()[0] == 200


@pytest.mark.parametrize("name", [b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Original-URL", b"X-Rewrite-URL"])
def test_overriding_headers_are_inert(name):
    with serving() as server:
        assert server.call(b"GET /1 HTTP/1.1\r\nHost: a\r\n" + name + b": DELETE\r\n\r\n").response()[0] == 200
        assert server.app.requests[0][:2] == ("GET", b"/1")
