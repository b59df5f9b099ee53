"""Too much to do: who is told so, how, and that the rest does not suffer."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from gateway.credits.pace import FULL_AT
from tests.server.harness import serving, wait_until

GET = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


class Gated:
    """An application that answers when the test says so; what it gets is remembered."""

    def __init__(self):
        self.entered = []
        self._gate = threading.Event()

    def open(self):
        self._gate.set()

    async def __call__(self, scope, receive, send):
        body = (await receive())["body"]
        self.entered.append((scope["raw_path"], body))
        while not self._gate.is_set():
            await asyncio.sleep(0.002)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Queue:
    """A backlog of the test's own."""

    def __init__(self, pending=0, *, is_stalled=False):
        self.pending = pending
        self.is_stalled = is_stalled

    def full_at(self, *, of_newest=False):
        return FULL_AT


@pytest.fixture
def app():
    return Gated()


@pytest.fixture
def full(app):
    """A server with one call at a time, which is under way."""
    with serving(app, calls_max=1) as server:
        server.first = server.call(GET)
        wait_until(lambda: app.entered)
        yield server


@pytest.mark.parametrize("request_", [GET, POST, CHUNKED, GET.replace(b"Host", b"X-A: close\r\nHost")])
def test_a_call_too_many_is_told_so_unread_and_its_connection_serves_the_next(app, full, request_):
    caller = full.call(request_)
    status, headers, body = caller.response()
    assert (status, headers["content-type"]) == (503, "application/problem+json")
    assert headers["retry-after"] == "1"
    assert json.loads(body)["type"].endswith(":overloaded")
    assert "connection" not in headers
    assert len(app.entered) == 1
    assert full.listener.refusals == {"overloaded": 1}
    app.open()
    assert full.first.response()[0] == 200
    wait_until(lambda: not full.tasks)
    assert caller.send(POST).response()[0] == 200
    assert app.entered[-1] == (b"/1", b"hello")


def test_nothing_behind_a_refused_request_is_taken_for_another(app, full):
    """A body is no request, a second request is answered in its turn, each with the framing that it has."""
    smuggled = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 28\r\n\r\n" + GET
    caller = full.call(smuggled + GET + CHUNKED)
    assert [caller.response()[0] for _ in range(3)] == [503, 503, 503]
    app.open()
    full.first.response()
    wait_until(lambda: not full.tasks)
    assert caller.send(GET.replace(b" /1", b" /last")).response()[0] == 200
    assert [path for path, _ in app.entered] == [b"/1", b"/last"]


@pytest.mark.parametrize("request_", [POST[:-1], CHUNKED[:-5]])
def test_a_body_that_is_still_to_come_is_not_waited_for(full, request_):
    status, headers, _ = full.call(request_).response()
    assert (status, headers["connection"]) == (503, "close")


def test_a_connection_that_held_a_large_request_serves_the_next_after_the_refusal(app, full):
    large = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    for _ in range(5):  # where a busy machine lets it come in pieces, its body is not waited for, and it is closed
        caller = full.call(large)
        status, headers, _ = caller.response()
        assert status == 503
        if "connection" not in headers:
            break
    app.open()
    full.first.response()
    wait_until(lambda: not full.tasks)
    assert caller.send(GET).response()[0] == 200


@pytest.mark.parametrize("before", [b"", b"\r\n"])
def test_the_answer_fits_the_request(full, before):
    caller = full.call(before + GET.replace(b"GET", b"HEAD"))
    assert caller.response("HEAD")[0] == 503
    assert caller.send(GET).response()[0] == 503
    for last in (GET.replace(b"1.1", b"1.0"), GET.replace(b"Host", b"Connection: close\r\nHost")):
        caller = full.call(last)
        status, headers, _ = caller.response()
        assert (status, headers["connection"]) == (503, "close")
        assert caller.rest() == b""


def test_what_is_always_answered_is_answered(app, full):
    full.listener.always = {b"/healthz"}
    caller = full.call(GET.replace(b" /1", b" /healthz"))
    wait_until(lambda: len(app.entered) == 2)
    app.open()
    assert caller.response()[0] == 200


def test_a_malformed_request_is_refused_all_the_same(full):
    assert (
        full.call(b"GET /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na").response()[0] == 400
    )


def test_while_the_journal_is_busy_requests_wait_unread_for_room_and_nobody_is_refused(app):
    app.open()
    with serving(app) as server:
        intake = server.listener.intake
        intake.backlog = queue = Queue(pending=FULL_AT)
        callers = [server.call(request_) for request_ in (GET, POST, CHUNKED, GET.replace(b"GET", b"HEAD"))]
        slow = server.call(POST[:-1])
        wait_until(lambda: server.in_loop(lambda: intake.waiting) == 5)
        seen = {name: value for name, _, value in server.in_loop(lambda: list(server.listener.gauges()))}
        assert seen == {"connections_open": 5, "requests_waiting": 5, "overloaded": 0}
        assert not app.entered
        slow.send(POST[-1:])
        queue.pending = 0
        assert [callers[n].response("HEAD" if n == 3 else "GET")[0] for n in range(4)] == [200] * 4
        assert slow.response()[0] == 200
        assert (b"/1", b"hello") in app.entered
        assert not server.listener.refusals


def test_under_overload_who_finds_no_room_is_told_so_until_there_is_some(app):
    app.open()
    with serving(app) as server:
        intake = server.listener.intake
        intake.backlog = queue = Queue(pending=FULL_AT)
        callers = [server.call(GET) for _ in range(20)]
        assert {caller.response()[0] for caller in callers} == {503}
        assert not app.entered
        queue.pending = 0
        assert callers[0].send(GET).response()[0] == 200
        assert not intake.is_overloaded


def test_while_nothing_gets_through_the_journal_all_are_let_in_to_hear_why(app):
    app.open()
    with serving(app) as server:
        server.listener.intake.backlog = queue = Queue(pending=1_000)
        caller = server.call(GET)
        wait_until(lambda: server.in_loop(lambda: server.listener.intake.waiting) == 1)
        queue.is_stalled = True
        assert caller.response()[0] == 200
        assert server.call(GET).response()[0] == 200


def test_who_leaves_before_he_is_told_is_no_trouble(app, full):
    for _ in range(50):
        full.call(GET).close(reset=True)
    assert full.call(GET).response()[0] == 503
    app.open()
    assert full.first.response()[0] == 200
