"""What becomes of the application's messages, and how a caller sees that an answer is not whole."""

import asyncio
import logging
import re

import pytest

from tests.server.harness import serving, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
OLD = b"GET / HTTP/1.0\r\n\r\n"


def start(status=200, *headers):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages):
    """An application that sends these; an exception among them is raised, a number is slept."""

    async def app(scope, receive, send):
        for message in messages:
            if isinstance(message, Exception):
                raise message
            if isinstance(message, float):
                await asyncio.sleep(message)
            else:
                await send(message)

    return app


def test_head_and_body_leave_in_one_segment():
    with serving(sending(start(200, (b"content-length", b"2")), body(b"ok"))) as server:
        data = server.call(GET).socket.recv(65_536)
        assert re.fullmatch(rb"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: [^\r]+ GMT\r\n\r\nok", data)


def test_a_body_without_length_is_chunked():
    with serving(sending(start(), body(b"a", True), body(b"", True), body(b"b" * 40_000, True), body(b"c"))) as server:
        caller = server.call(GET + GET)
        for _ in range(2):
            status, headers, data = caller.response()
            assert (status, headers["transfer-encoding"], data) == (200, "chunked", b"a" + b"b" * 40_000 + b"c")


def test_a_body_without_length_ends_with_the_connection_in_http_1_0():
    with serving(sending(start(), body(b"a", True), body(b"b"))) as server:
        status, headers, data = server.call(OLD).response()
        assert (status, headers["connection"], data) == (200, "close", b"ab")
        assert "transfer-encoding" not in headers


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_body(status):
    with serving(sending(start(status, (b"content-length", b"5")), body(b"hello"))) as server:
        caller = server.call(GET + GET)
        for _ in range(2):
            got, headers, _ = caller.response()
            assert got == status
            assert headers.get("content-length") == (None if status == 204 else "5")
            assert "transfer-encoding" not in headers
        assert caller.buffer == b""


def test_a_head_request_gets_the_headers_of_get_and_no_body():
    with serving(sending(start(200, (b"content-length", b"5")), body(b"hello"))) as server:
        caller = server.call(HEAD + HEAD)
        for _ in range(2):
            status, headers, _ = caller.response("HEAD")
            assert (status, headers["content-length"]) == (200, "5")
        assert caller.buffer == b""


def test_the_head_of_a_stream_does_not_wait_for_its_first_byte():
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await send(start())
        await gate.wait()
        await send(body(b"data: 1\n\n"))

    with serving(app) as server:
        caller = server.call(GET)
        assert b"200 OK" in caller.until(b"\r\n\r\n")
        assert caller.buffer == b""
        server.in_loop(gate.set)
        assert caller.until(b"data: 1\n\n")


def test_framing_and_hop_by_hop_headers_are_ours():
    app = sending(
        start(200, (b"Transfer-Encoding", b"gzip"), (b"Keep-Alive", b"x"), (b"Connection", b"upgrade"),
              (b"Upgrade", b"y"), (b"Content-Length", b"2"), (b"Date", b"now"), (b"X-A", b"1")),
        body(b"ok"),
    )  # fmt: skip
    with serving(app) as server:
        head = server.call(GET).until(b"\r\n\r\n")
        assert head == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: now\r\nX-A: 1\r\n\r\n"


def test_an_application_may_close_the_connection():
    with serving(sending(start(200, (b"connection", b"close"), (b"content-length", b"0")), body())) as server:
        caller = server.call(GET + GET)
        assert caller.response()[1]["connection"] == "close"
        assert caller.rest() == b""


@pytest.mark.parametrize(
    "header",
    [(b"x-a", b"1\r\nset-cookie: a=b"), (b"x-a", b"1\n"), (b"x-a", b"1\r"), (b"x-a", b"\0"), (b"x-a\r\nx-b", b"1"),
     (b"x a", b"1"), (b"", b"1"), (b"x:a", b"1"), (b"content-length", b"+1"), (b"content-length", b"x")],
)  # fmt: skip
def test_nothing_can_be_injected_into_a_head(header, caplog):
    with serving(sending(start(200, header), body(b"x"))) as server:
        caller = server.call(GET)
        status, headers, data = caller.response()
        assert (status, headers["content-type"]) == (500, "application/problem+json")
        assert b"set-cookie" not in data
        assert caller.rest() == b""


def test_two_lengths_are_an_error(caplog):
    app = sending(start(200, (b"content-length", b"1"), (b"content-length", b"1")), body(b"x"))
    with serving(app) as server:
        assert server.call(GET).response()[0] == 500


@pytest.mark.parametrize(
    "messages", [[], [ValueError("secret")], [start(), ValueError("secret")], [body(b"x")], [start(99)]]
)
def test_an_application_that_fails_before_its_answer_is_a_500(messages, caplog):
    with serving(sending(*messages)) as server:
        caller = server.call(GET)
        status, headers, data = caller.response()
        assert (status, headers["connection"], headers["content-type"]) == (500, "close", "application/problem+json")
        assert b"secret" not in data
        assert caller.rest() == b""


SHORT = (b"content-length", b"5")


@pytest.mark.parametrize(
    "messages",
    [
        [start(), body(b"abc", True), ValueError()],
        [start(), body(b"abc", True)],
        [start(200, SHORT), body(b"abc", True), ValueError()],
        [start(200, SHORT), body(b"abc", True)],
        [start(200, SHORT), body(b"abc", True), body(b"d")],
        [start(200, SHORT), body(b"abc", True), body(b"defghi")],
    ],
)
def test_a_caller_sees_that_an_answer_is_not_whole(messages, caplog):
    with serving(sending(*messages)) as server:
        data = server.call(GET + GET).rest()
        head, _, payload = data.partition(b"\r\n\r\n")
        assert b" 200 " in head
        assert payload in (b"3\r\nabc\r\n", b"abc")


def test_a_caller_sees_that_an_answer_without_framing_is_not_whole(caplog):
    with serving(sending(start(), body(b"abc", True), 0.05, ValueError())) as server:
        assert server.call(OLD).is_reset()


def test_a_short_or_long_single_body_is_never_passed_as_whole(caplog):
    for data in (b"abc", b"abcdef"):
        with serving(sending(start(200, SHORT), body(data))) as server:
            assert not server.call(GET).rest().endswith(b"\r\n\r\n" + data[:5])


def test_send_waits_for_a_slow_reader_and_goes_on_with_it():
    sent = 0
    total = 64_000_000

    async def app(scope, receive, send):
        nonlocal sent
        await send(start(200, (b"content-length", b"%d" % total)))
        while sent < total:
            await send(body(b"x" * 100_000, True))
            sent += 100_000
        await send(body())

    with serving(app) as server:
        caller = server.caller(receive_buffer=65_536).send(GET)
        (connection,) = wait_until(lambda: server.connections)
        wait_until(lambda: connection.write_paused)
        assert sent < 16_000_000
        assert server.in_loop(connection.transport.get_write_buffer_size) < 300_000
        status, _, data = caller.response()
        assert (status, len(data)) == (200, total)


def test_a_caller_who_leaves_ends_a_send_that_waits():
    ended = []

    async def app(scope, receive, send):
        try:
            await send(start())
            while True:
                await send(body(b"x" * 100_000, True))
        finally:
            try:
                await send(body(b"x"))
            except OSError:
                ended.append(True)

    with serving(app) as server:
        caller = server.caller(receive_buffer=65_536).send(GET)
        (connection,) = wait_until(lambda: server.connections)
        wait_until(lambda: connection.write_paused)
        caller.close(reset=True)
        wait_until(lambda: ended)
        wait_until(lambda: not server.tasks)


def test_a_caller_who_leaves_is_not_an_error(caplog):
    async def app(scope, receive, send):
        await asyncio.sleep(60)

    with serving(app) as server, caplog.at_level(logging.INFO):
        caller = server.call(GET)
        wait_until(lambda: server.tasks)
        caller.close()
        wait_until(lambda: not server.tasks)
    assert caplog.records == []


def test_receive_tells_when_the_response_is_complete():
    told = []

    async def app(scope, receive, send):
        assert (await receive()) == {"type": "http.request", "body": b"", "more_body": False}
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await send(start(200, (b"content-length", b"0")))
        await send(body())
        told.append(await waiting)

    with serving(app) as server:
        assert server.call(GET).response()[0] == 200
        wait_until(lambda: told == [{"type": "http.disconnect"}])
