"""What comes first: the key before any contact, the hold before the upstream, the settlement before the answer."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time

import pytest

from gateway.credits.provider import HoldLost
from gateway.database.sqlite import BUSY_TIMEOUT_MS
from tests.credits.conftest import Ledger, until
from tests.proxy.harness import HOLD_TIMEOUT_SECONDS, Gate, Proxy, chunked, request, response
from tests.server.harness import PATIENCE_SECONDS, wait_until

SILENCE_SECONDS = 0.15
"""How long a caller listens to be sure that nothing comes. Not a synchronisation: what would come is there by then."""


def hears_nothing(caller) -> bool:
    caller.socket.settimeout(SILENCE_SECONDS)
    try:
        return not caller.socket.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        caller.socket.settimeout(PATIENCE_SECONDS)


def test_the_hold_is_on_disk_when_the_upstream_is_reached(account, script):
    found = []

    def look(peer, seen):
        connection = sqlite3.connect(account.proxy.path)
        found.extend(connection.execute("SELECT cost, request_id FROM holds").fetchall())
        connection.close()
        peer.send(response())
        return True

    script("look", look)
    answer = account.ask("/paid/look")
    assert found == [(5, answer.headers["x-request-id"])]


@pytest.mark.parametrize("target", ["/paid/ok", "/told/ok"])
def test_no_hold_no_call(account, upstream, target):
    """Fail closed: while the database takes no hold, nothing is forwarded, and the caller is told in time."""
    started = time.monotonic()
    with account.proxy.locked():
        answer = account.ask(target)
    assert time.monotonic() - started < 2
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.problem["type"].endswith(":credits-unavailable")
    assert upstream.seen == []
    wait_until(lambda: account.books == (100, 0))
    assert account.ask("/paid/ok").status == 200


ANSWERS = [
    # route, the upstream's answer: whole and in pieces, with the cost told at once, later, or not at all
    ("paid", response()),
    ("paid", chunked()),
    ("paid", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"),
    ("paid", response(status=503)),
    ("told", response(b"X-Credits-Used: 3")),
    ("told", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ("told", b"HTTP/1.1 200 OK\r\nX-Credits-Used: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ("lenient", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"),
]


@pytest.mark.parametrize(("route", "answer"), ANSWERS)
def test_no_byte_of_the_answer_leaves_before_its_settlement_is_on_disk(account, script, route, answer):
    """While the upstream answers the database is locked: the caller hears nothing that is not in the books."""
    gate = script("gated", Gate(answer))
    caller = account.send(f"/{route}/gated")
    gate.wait_entered()
    with account.proxy.locked():
        gate.open()
        assert hears_nothing(caller)
        assert account.spends == []
    head = caller.until(b"\r\n\r\n")
    is_on_disk = account.spends or _answered_holds(account.proxy.path)
    assert is_on_disk, head
    caller.close()
    wait_until(lambda: account.books[1] == 0)


def _answered_holds(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM holds WHERE answered").fetchone()[0]
    finally:
        connection.close()


@pytest.mark.parametrize("route", ["paid", "told"])
def test_a_settlement_that_the_database_does_not_take_is_given_up_in_time(account, script, route):
    gate = script("gated", Gate(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"))
    caller = account.send(f"/{route}/gated")
    gate.wait_entered()
    with account.proxy.locked():
        gate.open()
        caller.socket.settimeout(HOLD_TIMEOUT_SECONDS + BUSY_TIMEOUT_MS / 1000 + 0.5)
        status, headers, body = caller.response()
    assert status == 503
    assert headers["content-type"] == "application/problem+json"
    assert b'"released":true' in body
    wait_until(lambda: account.books == (100, 0))
    assert account.spends == [(0, "credits-unavailable")]


class SlowEnds:
    """A provider whose ends of holds wait for the test."""

    def __init__(self, provider):
        self._provider = provider
        self.hold = provider.hold
        self.asked = 0
        self._let = asyncio.Event()
        self._failure = None

    async def _end(self, how, *arguments):
        self.asked += 1
        await self._let.wait()
        if self._failure is not None:
            raise self._failure
        await how(*arguments)

    def settle(self, *arguments):
        return self._end(self._provider.settle, *arguments)

    def keep(self, *arguments):
        return self._end(self._provider.keep, *arguments)

    def release(self, *arguments):
        return self._end(self._provider.release, *arguments)

    def let(self, failure=None):
        self._failure = failure
        self._let.set()


@pytest.fixture
def slow_ends(targets, tmp_path):
    made = []

    def wrap(provider):
        made.append(SlowEnds(provider))
        return made[0]

    with Proxy(tmp_path / "gateway.db", targets, wrap=wrap) as proxy:
        yield proxy, made[0]


@pytest.mark.parametrize(
    ("target", "status"),
    [("/paid/ok", 200), ("/told/pieces", 200), ("/paid/503", 503), ("/refused/ok", 502), ("/paid/garbage", 502)],
)
def test_the_answer_waits_for_the_end_of_the_hold(slow_ends, script, target, status):
    def pieces(peer, seen):
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        wait_until(lambda: ends.asked)
        peer.send(b"5\r\nhello\r\n0\r\n\r\n")
        return True

    proxy, ends = slow_ends
    script("pieces", pieces)
    account = proxy.account()
    caller = account.send(target)
    wait_until(lambda: ends.asked)
    assert hears_nothing(caller)
    proxy.in_loop(ends.let)
    assert caller.response()[0] == status
    wait_until(lambda: account.books[1] == 0)


@pytest.mark.parametrize(("route", "kept"), [("told", 20), ("told-abortable", 0)])
def test_a_caller_who_leaves_during_the_settlement_leaves_no_hold(slow_ends, script, route, kept):
    script("begins", lambda peer, seen: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n") or peer.hang())
    proxy, ends = slow_ends
    account = proxy.account()
    caller = account.send(f"/{route}/begins")
    wait_until(lambda: ends.asked)
    caller.close(reset=True)
    wait_until(lambda: not proxy.connections)
    proxy.in_loop(ends.let)
    account.ended(kept, "client_abort")


@pytest.mark.parametrize("route", ["paid", "told"])
def test_an_answer_that_breaks_off_during_its_settlement_is_seen_to_be_cut(slow_ends, script, route):
    """It was settled, so the caller is not told that the gateway failed: it sees the head, and a body cut short."""

    def break_off(peer, seen):
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        wait_until(lambda: ends.asked)
        peer.send(b"zz\r\n")
        peer.hang()
        proxy.in_loop(ends.let)

    script("breaks", break_off)
    proxy, ends = slow_ends
    account = proxy.account()
    caller = account.send(f"/{route}/breaks")
    head = caller.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nx-request-id: req_" in head
    assert b"\r\ntransfer-encoding: chunked" in head
    assert caller.rest() == b""
    account.ended({"paid": 5, "told": 20}[route], None)


def test_a_settlement_that_fails_is_not_served(slow_ends):
    proxy, ends = slow_ends
    caller = proxy.account().send("/paid/ok")
    wait_until(lambda: ends.asked)
    proxy.in_loop(ends.let, HoldLost(cause="the test ended it"))
    status, _, body = caller.response()
    assert status == 503
    assert b'"released":true' in body


@pytest.mark.parametrize("target", ["/paid/gated", "/told/gated"])
@pytest.mark.parametrize("answer", [response(), b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin"])
def test_a_call_whose_hold_was_ended_by_recovery_is_not_served(targets, tmp_path, script, target, answer):
    """The process was taken for dead and a survivor gave the credits back: serving now would be for nothing."""
    gate = script("gated", Gate(answer))
    ledger = Ledger(tmp_path / "gateway.db")

    async def survive():
        async with ledger.provider(heartbeat_seconds=0.05, dead_after_seconds=0.5):
            await until(lambda: account.books == (100, 0))

    with Proxy(ledger.path, targets, patience_seconds=60) as proxy:
        account = proxy.account()
        caller = account.send(target)
        gate.wait_entered()
        asyncio.run(survive())
        gate.open()
        status, _, body = caller.response()
        assert status == 503
        assert b'"released":true' in body
        assert account.spends == [(0, "gateway died")]
    ledger.audit()


# Expect: 100-continue (RFC 9110 section 10.1.1)

EXPECTING = (b"Expect: 100-continue", b"Content-Length: 5")


@pytest.mark.parametrize(
    ("key", "status"), [((), 401), ((b"X-API-Key: gw_nobody",), 401), ((b"X-API-Key: a", b"X-API-Key: b"), 401)]
)
def test_nobody_is_invited_to_send_a_body_without_a_key(proxy, upstream, key, status):
    caller = proxy.call(request("/paid/echo", "POST", (*key, *EXPECTING)))
    assert caller.until(b"\r\n").startswith(b"HTTP/1.1 %d" % status)
    assert upstream.seen == []


def test_nobody_is_invited_to_send_a_body_without_credits(proxy, upstream):
    caller = proxy.account(credits=4).send("/paid/echo", "POST", headers=EXPECTING)
    assert caller.until(b"\r\n").startswith(b"HTTP/1.1 402")
    assert upstream.seen == []


def test_a_body_that_is_declared_too_long_is_not_asked_for(account, upstream):
    headers = (b"Expect: 100-continue", b"Content-Length: 5000")
    assert account.send("/small/echo", "POST", headers=headers).until(b"\r\n").startswith(b"HTTP/1.1 413")
    assert upstream.seen == []
    assert account.spends == []


def test_a_caller_with_credits_is_invited_and_served(account, upstream):
    caller = account.send("/paid/echo", "POST", headers=EXPECTING)
    assert caller.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert account.books == (95, 5)
    assert upstream.seen == []  # the upstream is not troubled with half a request
    caller.send(b"hello")
    assert caller.response()[0] == 200
    assert upstream.seen[0].body == b"hello"
    account.ended(5, None)


@pytest.mark.parametrize("reset", [True, False])
def test_a_caller_who_leaves_when_invited_pays_nothing(account, upstream, reset):
    caller = account.send("/paid/echo", "POST", headers=EXPECTING)
    caller.until(b"\r\n\r\n")
    caller.close(reset=reset)
    account.ended(0, "client_abort")
    assert upstream.seen == []


def test_a_body_that_grows_too_long_after_the_invitation_costs_nothing(account):
    caller = account.send("/small/echo", "POST", headers=(b"Expect: 100-continue", b"Transfer-Encoding: chunked"))
    caller.until(b"\r\n\r\n")
    caller.send(b"7d0\r\n" + b"x" * 2_000 + b"\r\n0\r\n\r\n")
    assert caller.response()[0] == 413
    account.ended(0, "body")


def test_a_body_that_is_broken_after_the_invitation_costs_nothing(account):
    caller = account.send("/paid/echo", "POST", headers=(b"Expect: 100-continue", b"Transfer-Encoding: chunked"))
    caller.until(b"\r\n\r\n")
    caller.send(b"zz\r\n")
    assert caller.response()[0] == 400
    account.ended(0, "client_abort")
