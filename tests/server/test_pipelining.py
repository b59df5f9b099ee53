"""A caller who asks and asks without reading costs a bounded amount, and no answer of those who do read."""

import signal

import pytest

from tests.server.harness import serving, wait_until
from tests.server.test_serve import running

GET = b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n"
COUNT = 300
SIZE = 60_000


class Numbered:
    """Answers with the number in the path and many bytes; counts what runs."""

    def __init__(self):
        self.started = self.ended = 0

    async def __call__(self, scope, receive, send):
        self.started += 1
        body = scope["raw_path"].ljust(SIZE, b".")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % SIZE)]})
        await send({"type": "http.response.body", "body": body})
        self.ended += 1


def requests(count):
    return b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(count))


def fill(caller, data):
    """Send it over and over until there is no room, for 50 MB at most; the bytes sent."""
    caller.socket.setblocking(False)
    sent = 0
    try:
        while sent < 50_000_000:
            sent += caller.socket.send(data[sent % len(data) :])
    except BlockingIOError:
        pass
    caller.socket.settimeout(10)
    return sent


def paused(server):
    """The one connection, once it waits for its caller to take what is written."""
    (connection,) = wait_until(lambda: server.connections)
    wait_until(lambda: connection.write_paused and connection.exchange is None)
    return connection


def settled(server, app):
    """How many requests were started when no more are."""
    before = -1
    while app.started != before:
        before = app.started
        server.in_loop(lambda: None)
        wait_until(lambda: app.ended == app.started)
    return before


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_no_request_is_begun_while_earlier_answers_are_not_taken(in_one_piece):
    app = Numbered()
    with serving(app) as server:
        caller = server.caller(receive_buffer=65_536)
        if in_one_piece:
            caller.send(requests(COUNT))
            connection = paused(server)
        else:
            caller.send(requests(COUNT - 1))
            connection = paused(server)
            caller.send(requests(COUNT)[len(requests(COUNT - 1)) :])
        assert settled(server, app) < COUNT  # the kernel takes some
        assert server.tasks == []
        assert server.in_loop(connection.transport.get_write_buffer_size) < 65_536 + 2 * SIZE
        for number in range(COUNT):
            status, _, body = caller.response()
            assert (status, body.rstrip(b".")) == (200, b"/%d" % number)
        assert app.started == COUNT


def test_what_comes_while_answers_are_not_taken_is_bounded_too():
    with serving(Numbered()) as server:
        caller = server.caller(receive_buffer=65_536).send(requests(COUNT))
        connection = paused(server)
        assert fill(caller, GET * 1000) < 50_000_000
        wait_until(lambda: connection._reading_paused)
        assert len(connection._unparsed) < 1_000_000


def test_a_caller_who_asks_and_never_reads_is_dropped():
    names = ("head_timeout", "keep_alive_timeout")
    with serving(Numbered(), write_timeout_seconds=0.4, **{f"{name}_seconds": 60 for name in names}) as server:
        server.caller(receive_buffer=65_536).send(requests(COUNT))
        paused(server)
        wait_until(lambda: not server.connections and not server.tasks)


def test_a_caller_who_asks_and_leaves_is_noticed():
    with serving(Numbered(), write_timeout_seconds=60) as server:
        caller = server.caller(receive_buffer=65_536).send(requests(COUNT))
        paused(server)
        caller.close(reset=True)
        wait_until(lambda: not server.connections)


def test_it_is_not_the_callers_head_that_is_late_while_its_answers_wait():
    app = Numbered()
    with serving(app, head_timeout_seconds=0.1, keep_alive_timeout_seconds=0.1) as server:
        caller = server.caller(receive_buffer=65_536).send(requests(COUNT))
        connection = paused(server)
        server.in_loop(connection.on_silence)
        assert all(caller.response()[0] == 200 for _ in range(COUNT))


def test_a_drain_does_not_wait_for_requests_that_were_not_begun():
    with running(drain=20) as gateway:
        caller = gateway.caller()
        asked = fill(caller, GET * 1000) // len(GET)
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(gateway.refuses)
        assert caller.rest().count(b"HTTP/1.1 200 OK") < asked
        assert gateway.end(None) == 0
