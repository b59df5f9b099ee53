"""Request bodies: forwarded byte for byte, refused when too long, free when broken."""

from __future__ import annotations

import hashlib
import json

import pytest

from gateway.proxy.body import WHOLE_MAX_BYTES
from gateway.proxy.route import UPLOADS_MAX
from tests.proxy.harness import BODY_MAX_BYTES
from tests.server.harness import wait_until

CHUNKED = (b"Transfer-Encoding: chunked",)
BIG_BYTES = WHOLE_MAX_BYTES + 4_464
"""A piece of a body that is too big to be waited for: it is streamed."""


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 65_536, BODY_MAX_BYTES])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_body_arrives_byte_for_byte(account, size, is_chunked):
    body = hashlib.shake_128(b"%d" % size).digest(size)
    if is_chunked:
        caller = account.send("/paid/echo", "POST", headers=CHUNKED)
        half = size // 2
        caller.send(chunks(*filter(None, (body[:half], body[half:]))) + b"0\r\n\r\n")
        status, _, told = caller.response()
    else:
        answer = account.ask("/paid/echo", "POST", body=body)
        status, told = answer.status, answer.body
    echoed = json.loads(told)
    assert (status, echoed["bytes"], echoed["sha256"]) == (200, size, hashlib.sha256(body).hexdigest())
    account.ended(5, None)


def test_a_body_declared_too_long_is_refused_before_any_credit_moves(account, upstream):
    caller = account.send("/small/echo", "POST", headers=(b"Content-Length: 1001",))
    status, headers, body = caller.response()
    assert status == 413
    assert json.loads(body)["limit_bytes"] == 1_000
    assert headers["connection"] == "close"
    assert account.spends == []
    assert upstream.seen == []


def test_ten_gigabytes_declared_are_refused_at_once(account, upstream):
    assert account.send("/paid/echo", "POST", headers=(b"Content-Length: 10737418240",)).response()[0] == 413
    assert account.spends == []
    assert upstream.seen == []


def test_a_body_of_the_limit_is_served(account):
    assert account.ask("/small/echo", "POST", body=b"x" * 1_000).status == 200


def test_a_chunked_body_found_too_long_late_is_never_ended_upstream(account, upstream):
    begun = upstream.begun_count
    caller = account.send("/middle/echo", "POST", headers=CHUNKED)
    caller.send(chunks(b"x" * BIG_BYTES))
    wait_until(lambda: upstream.begun_count > begun)
    assert account.books == (95, 5)
    caller.send(chunks(b"x" * BIG_BYTES) + b"0\r\n\r\n")
    status, _, body = caller.response()
    assert status == 413
    assert json.loads(body)["limit_bytes"] == 100_000
    account.ended(0, "body")
    wait_until(lambda: upstream.seen)
    assert not upstream.seen[0].complete
    assert b"\r\n0\r\n" not in upstream.seen[0].body


def test_a_chunked_body_too_long_in_its_first_piece_moves_no_credit(account, upstream):
    caller = account.send("/small/echo", "POST", headers=CHUNKED, body=None)
    caller.send(chunks(b"x" * 1_200) + b"0\r\n\r\n")
    assert caller.response()[0] == 413
    assert [amount for amount, _ in account.spends] in ([], [0])
    assert not [seen for seen in upstream.seen if seen.complete]


BROKEN = [
    # what follows the head, in the same segment
    (CHUNKED, b"zz\r\n"),
    (CHUNKED, b"5\r\nhelloXX"),
    (CHUNKED, b"-5\r\nhello\r\n"),
    (CHUNKED, b"5\nhello\n0\n\n"),
    ((b"Content-Length: five",), b"hello"),
    ((b"Content-Length: 5", b"Content-Length: 6"), b"hello"),
    ((b"Content-Length: 5", b"Transfer-Encoding: chunked"), b"0\r\n\r\n"),
    ((b"Transfer-Encoding: gzip, chunked",), b"0\r\n\r\n"),
]


@pytest.mark.parametrize(("framing", "body"), BROKEN)
def test_a_broken_body_costs_nothing(account, upstream, framing, body):
    request = account.request("/paid/echo", "POST", headers=framing) + body
    assert account.proxy.call(request).response()[0] in (400, 501)
    assert account.spends == []
    assert upstream.seen == []


def test_a_body_that_breaks_later_costs_nothing(account, upstream):
    begun = upstream.begun_count
    caller = account.send("/paid/echo", "POST", headers=CHUNKED)
    caller.send(chunks(b"x" * BIG_BYTES))
    wait_until(lambda: upstream.begun_count > begun)
    assert account.books == (95, 5)
    caller.send(b"zz\r\n")
    assert caller.response()[0] == 400
    account.ended(0, "client_abort")
    wait_until(lambda: upstream.seen)
    assert not upstream.seen[0].complete


def test_a_body_that_never_comes_costs_nothing(account, upstream):
    caller = account.send("/paid/echo", "POST", headers=(b"Content-Length: 5",))
    caller.close()
    wait_until(lambda: not account.proxy.tasks)
    assert account.spends == []
    assert upstream.seen == []


def test_trailers_are_dropped(account, upstream):
    caller = account.send("/paid/echo", "POST", headers=(*CHUNKED, b"Trailer: X-Gateway-User"))
    caller.send(chunks(b"hello") + b"0\r\nX-Gateway-User: root\r\n\r\n")
    assert caller.response()[0] == 200
    assert upstream.seen[0].header("x-gateway-user") == ["user_1"]
    assert b"root" not in upstream.seen[0].head + upstream.seen[0].body


def test_a_small_body_occupies_no_upstream_connection_before_it_is_whole(account, upstream):
    slow = [account.send("/paid/echo", "POST", headers=(b"Content-Length: 5",)) for _ in range(20)]
    for caller in slow:
        caller.send(b"h")
    wait_until(lambda: len(account.proxy.tasks) >= 20)
    assert account.ask("/paid/echo", "POST", body=b"whole").status == 200
    assert len(upstream.seen) == 1
    assert account.books == (95, 0)
    for caller in slow:
        caller.send(b"ello")
    statuses = [caller.response()[0] for caller in slow]
    assert sorted(statuses) == [200] * 19 + [402]


def test_bodies_under_way_leave_connections_for_others(account, upstream):
    """UPLOADS_MAX bodies may be on their way to an upstream; the next is told so, and small calls are still served."""
    begun_count = upstream.begun_count
    under_way = [account.send("/public/echo", "POST", headers=CHUNKED) for _ in range(UPLOADS_MAX)]
    for caller in under_way:
        caller.send(chunks(b"h"))
    wait_until(lambda: upstream.begun_count == begun_count + UPLOADS_MAX)
    one_too_many = account.send("/public/echo", "POST", headers=CHUNKED)
    one_too_many.send(chunks(b"h"))
    assert one_too_many.response()[0] == 503
    assert account.ask("/paid/echo", "POST", body=b"whole").status == 200
    for caller in under_way:
        caller.send(b"0\r\n\r\n")
    assert {caller.response()[0] for caller in under_way} == {200}
