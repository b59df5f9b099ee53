"""WebSocket upgrades: offered to the application, raw bytes after its 101, and never a second request."""

import asyncio

import pytest

from tests.server.harness import serving, wait_until

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n"
)
SMUGGLED = b"GET /SMUGGLED HTTP/1.1\r\nHost: a\r\n\r\n"
SWITCH = {
    "type": "http.response.start",
    "status": 101,
    "headers": [(b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-accept", b"y")],
}


class Echo:
    """Accepts the tunnel and sends back what comes, in upper case."""

    def __init__(self):
        self.scopes = []
        self.ended = False

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        assert scope["extensions"] == {"gateway.tunnel": {}}
        await send(SWITCH)
        while (message := await receive())["type"] == "http.request":
            assert message["more_body"]
            await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": True})
        self.ended = True
        await send({"type": "http.response.body", "body": b"BYE"})


@pytest.mark.parametrize("early", [b"", b"early "])
def test_bytes_pass_raw_after_the_101(early):
    app = Echo()
    with serving(app) as server:
        caller = server.call(UPGRADE + early)
        status, headers, _ = caller.response()
        assert status == 101
        assert headers["connection"] == "Upgrade"
        assert headers["upgrade"] == "websocket"
        assert "transfer-encoding" not in headers
        caller.send(b"hello\r\n\r\n")
        assert caller.until(b"\r\n\r\n") == early.upper() + b"HELLO\r\n\r\n"
        caller.send(SMUGGLED)
        assert caller.until(b"\r\n\r\n") == SMUGGLED.upper()
        caller.socket.shutdown(1)
        assert caller.rest() == b"BYE"
        assert app.ended
        assert len(app.scopes) == 1
        wait_until(lambda: not server.tasks and not server.connections)


def test_the_last_bytes_before_the_end_are_not_lost():
    app = Echo()
    with serving(app) as server:
        caller = server.call(UPGRADE + b"one two")
        caller.response()
        caller.send(b" three")
        caller.socket.shutdown(1)
        assert caller.rest() == b"ONE TWO THREEBYE"


def test_a_reset_cancels_the_application():
    with serving(Echo()) as server:
        caller = server.call(UPGRADE)
        caller.response()
        caller.close(reset=True)
        wait_until(lambda: not server.tasks and not server.connections)


def test_a_tunnel_has_back_pressure_both_ways():
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await send(SWITCH)
        await gate.wait()
        while (message := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body"})

    size = 30_000_000
    with serving(app) as server:
        caller = server.call(UPGRADE)
        caller.response()
        caller.socket.setblocking(False)
        sent = 0
        try:
            while sent < size:
                sent += caller.socket.send(b"x" * 100_000)
        except BlockingIOError:
            pass
        assert sent < size
        (connection,) = server.connections
        wait_until(lambda: connection._reading_paused)
        server.in_loop(gate.set)
        caller.socket.settimeout(10)
        assert len(caller.exactly(sent)) == sent


def test_a_refused_upgrade_is_a_plain_response_and_the_end():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    with serving(app) as server:
        caller = server.call(UPGRADE + SMUGGLED)
        status, headers, body = caller.response()
        assert (status, headers["connection"], body) == (401, "close", b"no")
        assert caller.rest() == b""
        assert server.listener.server_state.total_requests == 1


@pytest.mark.parametrize(
    "head",
    [
        UPGRADE.replace(b": 13", b": 12"),
        UPGRADE.replace(b"websocket", b"h2c"),
        UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: h2c\r\nHTTP2-Settings: x"),
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_other_upgrades_are_ignored_and_what_follows_is_never_a_request(head, cut):
    with serving() as server:
        caller = server.caller().send_each(head + SMUGGLED[:cut], SMUGGLED[cut:])
        status, headers, _ = caller.response()
        assert (status, headers["connection"]) == (200, "close")
        assert caller.rest() == b""
        assert server.app.targets == [b"/ws"]


def test_an_upgrade_with_a_body_is_a_plain_request_with_a_body():
    with serving() as server:
        caller = server.call(UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)) + SMUGGLED)
        assert caller.response()[0] == 200
        assert caller.rest() == b""
        assert server.app.targets == [b"/ws"]
        assert server.app.requests[0][4] == SMUGGLED


def test_101_without_an_offer_is_an_error(caplog):
    async def app(scope, receive, send):
        await send(SWITCH)

    with serving(app) as server:
        assert server.call(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").response()[0] == 500
