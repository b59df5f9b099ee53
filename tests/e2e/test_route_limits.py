"""What a route allows one caller beside credits, over a real gateway: told in headers, and free when it is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from tests.e2e.audit import Books
from tests.e2e.caller import Caller, call, request
from tests.e2e.harness import gateway, settings, until, until_async
from tests.e2e.upstream import Upstream

HOUR = 3_600
AT_ONCE = 3


def route(path, **limits):
    return {"path": f"/{path}/{{what}}", "methods": ["POST"], "upstream": "main", **limits}


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def served(upstream, tmp_path_factory):
    directory = tmp_path_factory.mktemp("limits")
    by_address = {"limit": 4, "window_seconds": HOUR}
    routes = [
        route("counted", cost=1, rate_limit={"limit": 3, "window_seconds": HOUR}),
        route("open", public=True, rate_limit_per_address=by_address),
        route("both", cost=0, rate_limit={"limit": 9, "window_seconds": HOUR}, rate_limit_per_address=by_address),
        route("few", cost=1, concurrency_per_key=AT_ONCE),
        route("quick", cost=1, timeout_seconds=0.3),
        route("slow", cost=1),
    ]
    server = {"trusted_proxies": ["127.0.0.1"], "calls_max": 500}
    with gateway(directory, settings(directory, upstream.url, server=server, routes=routes)) as running:
        running.secret, running.key_id = running.create_key(1_000)
        running.other, _ = running.create_key(1_000)
        running.start()
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.errors


def asking(key, path, what="ok", address=None):
    extra = f"X-Forwarded-For: {address}\r\n" if address else ""
    return request(key, what, extra=extra).replace(b"/call/", f"/{path}/".encode())


def ask(served, path, what="ok", *, key=None, address=None):
    return asyncio.run(call(served.port, asking(key or served.secret, path, what, address)))


def test_each_answer_says_what_is_left_of_the_limit(served):
    answers = [ask(served, "counted") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {f'"key";q=3;w={HOUR}'}
    left = [answer.headers["ratelimit"].split(";") for answer in answers]
    assert [(name, r) for name, r, _ in left] == [('"key"', f"r={count}") for count in (2, 1, 0, 0)]
    assert all(0 < int(t.removeprefix("t=")) <= HOUR + 1 for _, _, t in left)
    assert left[3][2] == f"t={answers[3].headers['retry-after']}"


def test_a_route_without_a_limit_says_nothing_of_one(served):
    assert not {"ratelimit", "ratelimit-policy"} & set(ask(served, "slow").headers)


def test_an_address_is_limited_without_a_key_whatever_it_says_of_others(served, upstream):
    before = len(upstream.seen)
    answers = [ask(served, "open", address=f"203.0.113.{number}, 198.51.100.1") for number in range(6)]
    assert [answer.status for answer in answers] == [200] * 4 + [429] * 2
    assert answers[5].slug == "rate-limited"
    assert answers[5].headers["ratelimit"].startswith('"address";r=0;t=')
    assert len(upstream.seen) - before == 4
    assert ask(served, "open", address="198.51.100.2").status == 200


def test_both_limits_are_told_and_the_address_counts_for_all_keys(served):
    answer = ask(served, "both", address="2001:db8:1:1::1")
    assert answer.headers["ratelimit-policy"] == f'"address";q=4;w={HOUR}, "key";q=9;w={HOUR}'
    for number in range(2, 5):
        assert ask(served, "both", key=served.other, address=f"2001:db8:1:1::{number}").status == 200
    assert ask(served, "both", address="2001:db8:1:1::5").status == 429
    assert ask(served, "both", key="gw_nobody", address="2001:db8:1:1::6").status == 429, "before the key is looked up"
    assert ask(served, "both", address="2001:db8:1:2::1").status == 200


def test_a_key_has_so_many_calls_at_a_time_and_the_next_is_free(served, upstream):
    async def crowd():
        async with contextlib.AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(await Caller.open(served.port)) for _ in range(AT_ONCE + 1)]
            seen = len(upstream.seen)
            for caller in callers[:-1]:
                caller.send(asking(served.secret, "few", "hang"))
            await until_async(lambda: len(upstream.seen) == seen + AT_ONCE)
            refused = await callers[-1].call(asking(served.secret, "few"))
            assert (refused.status, refused.slug) == (429, "too-many-at-once")
            assert json.loads(refused.body)["limit"] == AT_ONCE
            assert (await call(served.port, asking(served.other, "few"))).status == 200, "each key has its own"
            assert len(upstream.seen) == seen + AT_ONCE + 1

    asyncio.run(crowd())  # and the callers leave
    until(lambda: ask(served, "few").status == 200)


def test_a_call_that_takes_longer_than_its_route_allows_is_given_up_and_free(served):
    answer = ask(served, "quick", "hang")
    assert (answer.status, answer.slug) == (504, "upstream-timeout")
    assert json.loads(answer.body)["released"] is True
    assert Books(served.database).charged.get(answer.request_id, 0) == 0
    assert ask(served, "quick").status == 200


def test_calls_over_the_limit_of_all_are_refused_at_once_and_health_is_not(served, upstream, monkeypatch):
    monkeypatch.setattr(upstream, "slow_seconds", 2.0)  # none has ended before the last has come

    async def crowd():
        async with contextlib.AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(await Caller.open(served.port)) for _ in range(560)]
            seen = len(upstream.seen)
            for caller in callers:
                caller.send(asking(served.secret, "slow", "slow"))
            answers = await asyncio.gather(*(caller.read() for caller in callers))
            refused = [answer for answer in answers if answer.status == 503]
            assert {answer.slug for answer in refused} <= {"overloaded", "no-healthy-target"}
            assert sum(answer.slug == "overloaded" for answer in refused) >= 20
            assert all(answer.headers["retry-after"] == "1" for answer in refused)
            assert len(upstream.seen) - seen <= 500
            health = await call(served.port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert health.status == 200
            assert (await callers[0].call(asking(served.secret, "slow"))).status == 200, "and it is over at once"

    asyncio.run(crowd())
