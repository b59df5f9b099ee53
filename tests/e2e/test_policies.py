"""What a route asks beside credits: permissions, and not too often, whichever worker is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter

import pytest

from tests.e2e.audit import audit
from tests.e2e.caller import Answer, Caller, call, request
from tests.e2e.harness import allow_many_sockets, count, gateway, settings
from tests.e2e.upstream import Upstream

CALLS = count(200, 1_000)
MONTH = 2_592_000


def route(**policy):
    return {"path": "/call/{what}", "methods": ["POST"], "upstream": "main", **policy}


async def call_at_once(port: int, data: bytes) -> list[Answer]:
    """CALLS connections first; then all requests in one go."""
    callers: list[Caller] = []
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(CALLS):
            callers.append(await stack.enter_async_context(await Caller.open(port)))
        for caller in callers:
            caller.send(data)
        return await asyncio.gather(*(caller.read() for caller in callers))


@pytest.mark.parametrize("cost", [0, 2])
def test_a_crowd_at_two_workers_gets_exactly_as_many_calls_as_the_limit_lets_through(tmp_path, cost):
    allow_many_sockets()
    routes = [route(cost=cost, rate_limit={"limit": 5, "window_seconds": MONTH})]
    with (
        Upstream() as upstream,
        gateway(tmp_path, settings(tmp_path, upstream.url, server={"workers": 2}, routes=routes)) as running,
    ):
        key, key_id = running.create_key(1_000)
        other, _ = running.create_key(1_000)
        running.start()
        answers = asyncio.run(call_at_once(running.port, request(key, "slow")))
        assert Counter(answer.status for answer in answers) == {200: 5, 429: CALLS - 5}
        assert len(upstream.arrived) == upstream.arrived.total() == 5
        refused = next(answer for answer in answers if answer.status == 429)
        problem = json.loads(refused.body)
        assert refused.slug == "rate-limited"
        assert (problem["limit"], problem["remaining"]) == (5, 0)
        assert refused.headers["retry-after"] == str(problem["reset"])
        assert asyncio.run(call(running.port, request(other))).status == 200, "each key has its own"
        assert running.stop() == 0
        books = audit(running.database, upstream if cost else None, answers)
        assert books.available(key_id) == 1_000 - 5 * cost


def test_who_lacks_the_permission_never_reaches_the_upstream(tmp_path):
    routes = [route(cost=1, permission="call AND (eu OR us)", rate_limit={"limit": 1, "window_seconds": MONTH})]
    with Upstream() as upstream, gateway(tmp_path, settings(tmp_path, upstream.url, routes=routes)) as running:
        keys = [running.create_key(10, permissions=held) for held in ((), ("call",), ("eu", "us"), ("call.*", "eu"))]
        allowed, allowed_id = running.create_key(10, permissions=("us", "call"))
        running.start()
        for key, _ in keys:
            answers = [asyncio.run(call(running.port, request(key))) for _ in range(2)]
            assert [(answer.status, answer.slug) for answer in answers] == [(403, "forbidden")] * 2
        assert upstream.seen == []
        answers = [asyncio.run(call(running.port, request(allowed))) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 429]
        assert len(upstream.seen) == 1
        assert running.stop() == 0
        books = audit(running.database, upstream, answers)
        assert [books.available(key_id) for _, key_id in keys] == [10] * 4
        assert books.available(allowed_id) == 9
