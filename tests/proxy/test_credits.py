"""When credits are kept and when they come back, by outcome and by the route's policy."""

from __future__ import annotations

import pytest

from tests.proxy.harness import Gate, chunked, request, response
from tests.server.harness import wait_until


def test_a_call_that_succeeds_is_paid_once_and_says_what_is_left(account, upstream):
    answer = account.ask("/paid/ok")
    assert (answer.status, answer.body, answer.credits) == (200, b"ok", ("5", "95"))
    assert account.spends == [(5, None)]
    assert account.books == (95, 0)
    assert len(upstream.seen) == 1


RELEASES = [
    # route, script, status, credits kept, reason in the history
    ("paid", "ok", 200, 5, None),
    ("paid", "302", 302, 5, None),
    ("paid", "304", 304, 5, None),
    ("paid", "503", 503, 0, "upstream answered 503"),
    ("paid", "early", 413, 5, None),
    ("lenient", "early", 413, 0, "upstream answered 413"),
    ("lenient", "503", 503, 0, "upstream answered 503"),
    ("strict", "503", 503, 5, None),
    ("refused", "ok", 502, 0, "unreachable"),
    ("refused-strict", "ok", 502, 0, "unreachable"),  # it can't have been executed: no policy makes that cost
    ("paid", "no-head", 504, 0, "timeout"),
    ("strict", "no-head", 504, 5, "timeout"),
    ("paid", "close-before-head", 502, 0, "unreachable"),
    ("strict", "close-before-head", 502, 5, "unreachable"),
    ("paid", "garbage", 502, 0, "unreachable"),
    ("strict", "garbage", 502, 5, "unreachable"),
]


@pytest.mark.parametrize(("route", "name", "status", "kept", "reason"), RELEASES)
def test_the_outcome_and_the_route_decide_what_is_kept(account, route, name, status, kept, reason):
    answer = account.ask(f"/{route}/{name}", "POST", body=b"{}")
    assert answer.status == status
    account.ended(kept, reason)
    if "x-credits-cost" in answer.headers:
        assert answer.credits == (str(kept), str(100 - kept))
    else:
        assert answer.problem["released"] is (kept == 0)


def test_an_upstreams_own_error_passes_untouched(account):
    answer = account.ask("/paid/503")
    assert (answer.status, answer.body, answer.headers["retry-after"]) == (503, b"busy", "1")
    assert answer.credits == ("0", "100")


def test_a_free_route_needs_a_key_but_no_credits(proxy):
    account = proxy.account(credits=0)
    answer = account.ask("/free/ok")
    assert (answer.status, answer.credits) == (200, ("0", "0"))
    assert account.spends == []


def test_an_unlimited_key_pays_without_a_balance(proxy):
    answer = proxy.account(credits=None).ask("/paid/ok")
    assert (answer.status, answer.credits) == (200, ("5", None))


def test_a_public_route_says_nothing_of_credits(proxy, upstream):
    answer = proxy.ask(request("/public/ok"))
    assert (answer.status, answer.credits) == (200, (None, None))
    assert not upstream.seen[0].header("x-gateway-user")


def test_out_of_credits_never_reaches_the_upstream(proxy, upstream):
    account = proxy.account(credits=4)
    answer = account.ask("/paid/ok")
    assert answer.status == 402
    problem = answer.problem
    assert [problem[name] for name in ("available", "held", "cost", "shortfall")] == [4, 0, 5, 1]
    assert "retry-after" not in answer.headers
    assert upstream.seen == []
    assert account.spends == []


def test_the_last_credit_can_be_spent(proxy):
    account = proxy.account(credits=5)
    assert account.ask("/paid/ok").credits == ("5", "0")
    assert account.ask("/paid/ok").status == 402


def test_what_is_left_counts_the_holds_of_calls_in_flight(account, script):
    gate = script("gated", Gate(response()))
    waiting = account.send("/paid/gated")
    gate.wait_entered()
    assert account.ask("/paid/ok").credits == ("5", "90")
    gate.open()
    assert waiting.response()[0] == 200
    assert account.books == (90, 0)


TOLD = [
    # what the upstream tells, credits kept of 20
    ((b"X-Credits-Used: 3",), 3),
    ((b"x-credits-used:  7 ",), 7),
    ((b"X-Credits-Used: 0",), 0),
    ((b"X-Credits-Used: 20",), 20),
    ((b"X-Credits-Used: 21",), 20),
    ((b"X-Credits-Used: 999999999999999999",), 20),
    ((b"X-Credits-Used: -4",), 0),
    ((b"X-Credits-Used: 1e3",), 20),
    ((b"X-Credits-Used: 3.5",), 20),
    ((b"X-Credits-Used: three",), 20),
    ((b"X-Credits-Used: 0x3",), 20),
    ((b"X-Credits-Used:",), 20),
    ((b"X-Credits-Used: 3, 3",), 20),
    ((b"X-Credits-Used: 3", b"X-Credits-Used: 3"), 20),
    ((b"X-Credits-Used: " + b"9" * 400,), 20),
    ((), 20),
    ((b"X_Credits_Used: 3",), 20),
]


@pytest.mark.parametrize(("lines", "kept"), TOLD)
def test_the_upstream_tells_the_cost_in_a_header(account, script, lines, kept):
    script("tells", response(*lines))
    answer = account.ask("/told/tells")
    assert (answer.status, answer.body, answer.credits) == (200, b"ok", (str(kept), str(100 - kept)))
    assert "x-credits-used" not in answer.headers
    account.ended(kept, None if kept else "used_nothing")


@pytest.mark.parametrize(("lines", "kept"), TOLD)
def test_the_upstream_tells_the_cost_in_a_trailer(account, script, lines, kept):
    """The body comes in pieces, so the head has gone before the cost is known."""

    def stream(peer, seen):
        head, tail = chunked(b"Trailer: X-Credits-Used", trailers=lines).split(b"\r\n\r\n", 1)
        peer.send(head + b"\r\n\r\n")
        told.wait_entered()
        peer.send(tail)
        return True

    told = Gate(b"")
    script("streams", stream)
    caller = account.send("/told/streams")
    head = caller.until(b"\r\n\r\n").lower()
    assert b"x-credits-cost" not in head  # nobody knows it yet
    assert b"\r\nx-credits-remaining: 80\r\n" in head
    assert b"trailer" not in head
    assert account.books == (80, 20)
    told._entered.set()
    body = caller.until(b"0\r\n\r\n")
    assert body == b"5\r\nhello\r\n0\r\n\r\n"
    account.ended(kept, None if kept else "used_nothing")


def test_a_trailer_that_arrives_with_the_head_is_read_too(account, script):
    script("at-once", chunked(trailers=(b"X-Credits-Used: 3",)))
    assert account.ask("/told/at-once").credits in (("3", "97"), (None, "80"))
    account.ended(3, None)


def test_a_header_and_a_trailer_that_disagree_are_nonsense_or_the_header(account, script):
    """Whichever way it is read, the upstream is not paid less than its smallest word and never more than the hold."""
    script("both", chunked(b"X-Credits-Used: 3", trailers=(b"X-Credits-Used: 4",)))
    account.ask("/told/both")
    wait_until(lambda: not account.books[1])
    assert account.spends[0][0] in (3, 20)


def test_an_upstream_error_costs_nothing_whatever_it_tells(account, script):
    script("fails", response(b"X-Credits-Used: 9", status=500))
    answer = account.ask("/told/fails")
    assert (answer.status, answer.credits) == (500, ("0", "100"))
    account.ended(0, "upstream answered 500")


def test_a_streamed_answer_that_breaks_off_keeps_the_whole_hold(account):
    caller = account.send("/told/chunked-cut")
    caller.until(b"\r\n\r\n")
    assert not caller.rest().endswith(b"0\r\n\r\n")
    account.ended(20, None)


def test_accounting_of_the_upstreams_own_is_not_passed_on(account, script):
    script("claims", response(b"X-Credits-Cost: 1", b"X-Credits-Remaining: 9", b"X-Credits-Settled: 1"))
    answer = account.ask("/paid/claims")
    assert answer.credits == ("5", "95")
    assert "x-credits-settled" not in answer.headers


LEAVING = [
    # route, credits kept when the caller leaves once the upstream has the whole request, reason
    ("paid", 5, "client_abort"),
    ("lenient", 0, "client_abort"),
    ("told", 20, "client_abort"),
    ("told-abortable", 0, "client_abort"),
]


@pytest.mark.parametrize(("route", "kept", "reason"), LEAVING)
@pytest.mark.parametrize("reset", [True, False])
def test_a_caller_who_leaves_before_the_answer_pays_by_the_routes_policy(account, script, route, kept, reason, reset):
    gate = script("gated", Gate(response()))
    caller = account.send(f"/{route}/gated")
    gate.wait_entered()
    caller.close(reset=reset)
    account.ended(kept, reason)
    gate.open()


@pytest.mark.parametrize(("route", "kept"), [("told", 20), ("told-abortable", 0)])
def test_a_caller_who_leaves_in_the_middle_of_a_stream_pays_by_the_routes_policy(account, route, kept):
    caller = account.send(f"/{route}/endless")
    caller.until(b"\r\n\r\n")
    caller.close(reset=True)
    account.ended(kept, "client_abort")


def test_a_caller_who_leaves_with_half_its_body_sent_pays_nothing(account, proxy, upstream):
    begun_count = upstream.begun_count
    caller = account.send("/paid/echo", "POST", headers=(b"Content-Length: 99000",))
    caller.send(b"x" * 80_000)
    # Who leaves as the hold becomes durable is never forwarded.
    wait_until(lambda: upstream.begun_count > begun_count)
    assert account.books == (95, 5)
    caller.close(reset=True)
    account.ended(0, "client_abort")
    wait_until(lambda: upstream.seen)
    assert not upstream.seen[0].complete
