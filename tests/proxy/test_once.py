"""Idempotency-Key on a route that honours it: a call that comes again is charged once and answered alike."""

from __future__ import annotations

import sqlite3
import threading
import time

import pytest

from tests.proxy.harness import ONCE, Gate, chunked, request, response
from tests.proxy.once import KEY, is_replay, post, wait_kept
from tests.server.harness import wait_until
from tests.upstreams import hostile

NOT_KEPT = "was done and charged. Its answer was not kept"


ANSWERS = {
    "whole": response(b"Content-Type: application/json", b"X-Own: 1", b"X-Own: \xe9", body=b'{"a":"\xff"}'),
    "not found": response(status=404, body=b"none"),
    "moved": response(b"Location: /else", status=303, body=b""),
    "nothing": b"HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n",
    "in pieces": chunked(b"Content-Type: application/json", b"X-Own: 1"),
    "as long as may be": response(body=b"." * ONCE.answer_max_bytes),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_repeat_is_answered_alike_and_costs_nothing(account, script, counted, name):
    script("it", ANSWERS[name])
    first = post(account, "/once/it")
    assert first.credits == ("5", "95")
    assert not is_replay(first)
    for _ in range(2):
        again = post(account, "/once/it")
        assert (again.status, again.body) == (first.status, first.body)
        assert again.credits == ("0", "95")
        assert is_replay(again)
        own = {"date", "content-length", "transfer-encoding", "idempotency-replayed"}
        own |= {"x-credits-cost", "x-credits-remaining", "x-request-id"}
        theirs = [{name: value for name, value in a.headers.items() if name not in own} for a in (first, again)]
        assert theirs[0] == theirs[1]
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert counted() == 1
    account.ended(5, None)


def test_an_answer_to_head_is_given_again_with_the_length_that_it_told(account, script, counted):
    script("it", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-Own: 1\r\n\r\n")
    first, again = (post(account, "/once/it", method="HEAD", body=None) for _ in range(2))
    assert [answer.headers["content-length"] for answer in (first, again)] == ["7", "7"]
    assert is_replay(again)
    assert counted() == 1


def test_no_cookie_and_nothing_hop_by_hop_is_given_again(account, script):
    script("it", response(b"Set-Cookie: session=1", b"Connection: X-Hop", b"X-Hop: 1", b"Keep-Alive: timeout=5"))
    first, again = post(account, "/once/it"), post(account, "/once/it")
    assert "set-cookie" in first.headers
    assert is_replay(again)
    assert not {"set-cookie", "x-hop", "keep-alive"} & set(again.headers)


def test_the_upstream_gets_the_header_as_it_came(account, script, upstream):
    script("it", response())
    post(account, "/once/it")
    assert upstream.seen[0].header("idempotency-key") == ["create-7"]
    assert upstream.seen[0].body == b'{"n":1}'


def test_a_route_that_does_not_honour_it_passes_it_on(account, script, upstream):
    script("it", response())
    for _ in range(2):
        assert not is_replay(post(account, "/paid/it"))
    assert [seen.header("idempotency-key") for seen in upstream.seen] == [["create-7"]] * 2
    assert account.books == (90, 0)


def test_calls_without_the_header_are_as_many_as_come(account, script, counted):
    script("it", response())
    for _ in range(2):
        assert post(account, "/once/it", key=None).credits[0] == "5"
    assert counted() == 2


OTHER = {
    "body": ("/once/it", {"body": b'{"n":2}'}),
    "no body": ("/once/it", {"body": None}),
    "query": ("/once/it?x=1", {}),
    "path": ("/once/else", {}),
    "method": ("/once/it", {"method": "GET"}),
    "content type": ("/once/it", {"headers": (b"Content-Type: text/plain",)}),
    "route": ("/once-told/it", {}),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_request_with_the_same_key_is_refused(account, script, counted, what):
    script("it", response())
    script("else", response())
    assert post(account, "/once/it").status == 200
    target, rest = OTHER[what]
    answer = post(account, target, **rest)
    assert answer.status == 422
    assert set(answer.problem["errors"]) == {"Idempotency-Key"}
    assert counted() == 1
    assert is_replay(post(account, "/once/it"))
    account.ended(5, None)


def test_another_api_keys_call_with_the_same_key_is_another_call(account, script, counted, proxy):
    script("it", response())
    other = proxy.account()
    for caller in (account, other):
        assert not is_replay(post(caller, "/once/it"))
    assert counted() == 2
    for caller in (account, other):
        assert is_replay(post(caller, "/once/it"))
        caller.ended(5, None)


def test_a_repeat_needs_no_credits(proxy, script):
    script("it", response())
    account = proxy.account(5)
    assert post(account, "/once/it").credits == ("5", "0")
    assert post(account, "/once/it", key=b"Idempotency-Key: 2").status == 402
    assert post(account, "/once/it").credits == ("0", "0")


def test_a_revoked_key_gets_no_answer_of_its_former_calls(account, script, proxy):
    script("it", response())
    post(account, "/once/it")
    proxy.run(proxy.provider.enable(account.key_id, False))
    assert post(account, "/once/it").problem["type"].endswith(":key-disabled")
    proxy.run(proxy.provider.revoke(account.key_id))
    assert post(account, "/once/it").problem["type"].endswith(":invalid-key")


def test_while_a_call_runs_its_repeat_is_told_to_wait(account, script, counted):
    gate = script("it", Gate(response()))
    caller = account.send("/once/it", "POST", headers=(KEY,), body=b'{"n":1}')
    gate.wait_entered()
    answer = post(account, "/once/it")
    assert answer.status == 409
    assert answer.headers["retry-after"] == "1"
    assert post(account, "/once/it", body=b"other").status == 422
    gate.open()
    assert caller.response()[0] == 200
    assert is_replay(post(account, "/once/it"))
    assert counted() == 1
    account.ended(5, None)


FAILURES = {
    "5xx": "/once/fails",
    "reset": "/once/fails",
    "late": "/once/fails",
    "refused": "/once-refused/fails",
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_call_that_failed_runs_again(account, script, counted, how):
    target = FAILURES[how]
    what = {"5xx": response(status=503), "reset": hostile.says(b"", "reset"), "late": hostile.says(b"")}
    script("fails", what.get(how, response()))
    before = counted()
    for _ in range(2):
        answer = post(account, target)
        assert answer.status >= 500
        assert not is_replay(answer)
    assert counted() - before == (0 if how == "refused" else 2)
    wait_until(lambda: account.books == (100, 0))
    assert [amount for amount, _ in account.spends] == [0, 0]
    script("fails", response())
    if how != "refused":
        assert post(account, target).credits[0] == "5"
        assert is_replay(post(account, target))


def test_a_failure_that_is_charged_is_not_charged_again(account, script, counted):
    script("late", hostile.says(b""))
    assert post(account, "/once-strict/late").status == 504
    answer = post(account, "/once-strict/late")
    assert answer.status == 409
    assert NOT_KEPT in answer.problem["detail"]
    assert answer.problem["done"] is True
    assert "retry-after" not in answer.headers
    assert counted() == 1
    account.ended(5, "timeout")


LARGE = b"." * (ONCE.answer_max_bytes + 1)
NOT_FOR_KEEPS = {
    "large": response(body=LARGE),
    "large, in pieces": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (len(LARGE), LARGE),
    "events": chunked(b"Content-Type: text/event-stream"),
    "events, whole": response(b"Content-Type: Text/Event-Stream; charset=utf-8"),
    "broken off": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin",
}


@pytest.mark.parametrize("name", NOT_FOR_KEEPS)
def test_an_answer_that_is_not_kept_is_charged_once(account, script, counted, name):
    then = "close" if name == "broken off" else "hang"
    script("it", hostile.says(NOT_FOR_KEEPS[name], then) if name == "broken off" else NOT_FOR_KEEPS[name])
    caller = account.send("/once/it", "POST", headers=(KEY,), body=b'{"n":1}')
    if name == "broken off":
        caller.until(b"\r\n\r\n")
        while caller.more():
            pass
    else:
        status, headers, body = caller.response()
        assert (status, headers["x-credits-cost"]) == (200, "5")
        assert body in (LARGE, b"hello", b"ok")
    answer = post(account, "/once/it")
    assert answer.status == 409
    assert NOT_KEPT in answer.problem["detail"]
    assert counted() == 1
    account.ended(5, None)


def test_an_answer_that_gets_too_long_as_it_comes_is_not_kept(account, script, counted):
    half = b"%x\r\n%b\r\n" % (len(LARGE), LARGE)
    go_on = threading.Event()

    def in_two_halves(peer, seen):
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + half)
        assert go_on.wait(30)
        peer.send(half + b"0\r\n\r\n")
        return True

    script("it", in_two_halves)
    caller = account.send("/once/it", "POST", headers=(KEY,), body=b'{"n":1}')
    caller.until(LARGE)
    go_on.set()
    caller.until(b"0\r\n\r\n")
    answer = post(account, "/once/it")
    assert (answer.status, answer.problem["done"]) == (409, True)
    wait_kept(account, answer=False)
    assert counted() == 1
    account.ended(5, None)


@pytest.mark.parametrize(
    ("route", "answer", "cost", "reason"),
    [
        ("once-told", response(b"X-Credits-Used: 3"), 3, None),
        ("once-told", response(b"X-Credits-Used: 0"), 0, "used_nothing"),
        ("once-told", chunked(b"X-Credits-Used: 3"), 3, None),
        ("once-told", chunked(b"Trailer: X-Credits-Used", trailers=(b"X-Credits-Used: 4",)), 4, None),
        ("once-lenient", chunked(trailers=(b"X-Credits-Used: 4",)), 4, None),
        ("once-told", chunked(), 20, None),
    ],
)
def test_a_cost_that_the_upstream_tells_is_taken_once(account, script, counted, route, answer, cost, reason):
    script("it", answer)
    first = post(account, f"/{route}/it")
    again = post(account, f"/{route}/it")
    assert is_replay(again)
    assert (again.status, again.body) == (200, first.body)
    assert again.credits == ("0", str(100 - cost))
    assert counted() == 1
    account.ended(cost, reason)


# What is asked, and how


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((b"Idempotency-Key: a", b"Idempotency-Key: a"), 400),
        ((b"Idempotency-Key: ",), 422),
        ((b"Idempotency-Key: a b",), 422),
        ((b"Idempotency-Key: " + b"a" * 256,), 422),
        ((b"Idempotency-Key: " + b"a" * 255,), 200),
    ],
)
def test_a_key_that_is_none_is_refused(account, script, counted, headers, status):
    script("it", response())
    assert account.ask("/once/it", "POST", headers=headers, body=b"").status == status
    assert counted() == (status == 200)


def test_the_key_of_the_caller_comes_first(proxy, script, counted):
    script("it", response())
    unknown = proxy.ask(request("/once/it", "POST", (b"X-API-Key: gw_unknown", KEY), b"x"), "POST")
    assert unknown.status == 401
    missing = proxy.ask(request("/once/it", "POST", (KEY,), b"x"), "POST")
    assert missing.status == 401
    assert counted() == 0


def test_the_body_is_bounded_and_may_be_chunked(account, script, counted, upstream):
    script("it", response())
    for size, status in ((ONCE.body_max_bytes, 200), (ONCE.body_max_bytes + 1, 413)):
        key = b"Idempotency-Key: declared-%d" % size
        assert post(account, "/once/it", key=key, body=b"." * size).status == status
        data = account.request(
            "/once/it", "POST", headers=(b"Idempotency-Key: chunked-%d" % size, b"Transfer-Encoding: chunked")
        )
        caller = account.proxy.call(data + b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"." * size))
        assert caller.response()[0] == status
    assert [len(seen.body) for seen in upstream.seen] == [ONCE.body_max_bytes] * 2


def test_an_expectation_is_met_before_the_credits_are_taken(account, script):
    script("it", response())
    caller = account.proxy.call(
        account.request("/once/it", "POST", headers=(KEY, b"Expect: 100-continue", b"Content-Length: 2"))
    )
    assert caller.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    assert account.books == (100, 0)
    caller.send(b"{}")
    assert caller.response()[0] == 200
    assert is_replay(post(account, "/once/it", body=b"{}"))


def test_while_the_database_is_down_nothing_is_forwarded_and_no_answer_given(account, script, counted):
    script("it", response())
    post(account, "/once/it")
    before = counted()
    with account.proxy.locked():
        started = time.monotonic()
        for key in (KEY, b"Idempotency-Key: fresh"):
            answer = post(account, "/once/it", key=key)
            assert answer.status == 503
            assert answer.problem["type"].endswith(":credits-unavailable")
        assert time.monotonic() - started < 4
    assert counted() == before


def test_whoever_has_the_database_learns_nothing_of_what_was_asked_or_answered(account, script):
    script("it", response(b"X-Own: header-of-it", body=b"the-secret-answer"))
    post(account, "/once/it", key=b"Idempotency-Key: the-idempotency-key", body=b"the-question-asked")
    connection = sqlite3.connect(account.proxy.path)
    found = connection.execute("SELECT lookup, fingerprint, answer FROM answers").fetchall()
    dump = "\n".join(connection.iterdump())
    connection.close()
    stored = b"".join(b"".join(row) for row in found if row[2])
    words = [b"the-secret-answer", b"header-of-it", b"the-idempotency-key", b"the-question-asked"]
    for word in (*words, account.secret.encode()):
        assert word not in stored
        assert word.hex() not in dump.lower()
        assert word.decode() not in dump


def test_an_answer_that_was_changed_in_the_database_is_not_given(account, script, counted):
    script("it", response())
    post(account, "/once/it")
    connection = sqlite3.connect(account.proxy.path)
    connection.execute("UPDATE answers SET answer = zeroblob(length(answer)) WHERE answer IS NOT NULL")
    connection.commit()
    connection.close()
    assert post(account, "/once/it").status == 503
    assert counted() == 1


def test_an_answer_that_is_forgotten_in_that_moment_is_told_as_not_kept(account, script, proxy, monkeypatch):
    script("it", response())
    post(account, "/once/it")

    async def find_nothing(_claim):
        return None

    monkeypatch.setattr(proxy.provider, "find_answer", find_nothing)
    answer = post(account, "/once/it")
    assert (answer.status, answer.problem["done"]) == (409, True)


def test_repeats_are_counted_by_what_they_are_told(account, script, proxy):
    counts = proxy.endpoint._routes.match("POST", b"/once/it").metrics._repeats
    before = dict(counts)
    script("it", response())
    script("events", chunked(b"Content-Type: text/event-stream"))
    for target in ("/once/it", "/once/it", "/once/else", "/once/it"):
        post(account, target)
    for _ in range(2):
        post(account, "/once/events", key=b"Idempotency-Key: 2")
    gate = script("it", Gate(response()))
    key = b"Idempotency-Key: 3"
    caller = account.send("/once/it", "POST", headers=(key,), body=b'{"n":1}')
    gate.wait_entered()
    post(account, "/once/it", key=key)
    gate.open()
    caller.response()
    found = {outcome: number - before.get(outcome, 0) for outcome, number in counts.items()}
    assert found == {"replayed": 2, "other": 1, "not_kept": 1, "running": 1}
