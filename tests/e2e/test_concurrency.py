"""I1 under a crowd: a key is never spent beyond its credits, whoever asks at the same moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from tests.e2e.audit import audit
from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import allow_many_sockets, count, gateway, settings
from tests.e2e.upstream import Upstream

CALLS = count(400, 1_000)
CREDITS = 10


async def call_at_once(ports: list[int], data: bytes) -> list[Answer]:
    """CALLS connections first, spread over the ports; then all requests in one go."""
    callers: list[Caller] = []
    async with contextlib.AsyncExitStack() as stack:
        for number in range(CALLS):
            callers.append(await stack.enter_async_context(await Caller.open(ports[number % len(ports)])))
        for caller in callers:
            caller.send(data)
        return await asyncio.gather(*(caller.read() for caller in callers))


def assert_exactly(served: int, answers: list[Answer], upstream: Upstream) -> None:
    assert Counter(answer.status for answer in answers) == {200: served, 402: CALLS - served}
    assert len(upstream.arrived) == upstream.arrived.total() == served
    assert len(upstream.finished) == served


@pytest.mark.parametrize(("cost", "served", "left"), [(1, 10, 0), (3, 3, 1)])
def test_a_crowd_gets_exactly_as_many_calls_as_the_credits_pay_for(tmp_path, cost, served, left):
    allow_many_sockets()
    routes = [{"path": "/call/{what}", "methods": ["POST"], "upstream": "main", "cost": cost}]
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server={"workers": 2}, routes=routes)
        with gateway(tmp_path, config) as running:
            key, key_id = running.create_key(CREDITS)
            running.start()
            # Slow: the ten are still held while the others ask, so that a held credit must count as spent.
            answers = asyncio.run(call_at_once([running.port], request(key, "slow")))
            assert_exactly(served, answers, upstream)
            assert running.stop() == 0
            assert audit(running.database, upstream, answers).available(key_id) == left


def test_two_gateways_on_one_database_do_not_sell_a_credit_twice(tmp_path):
    allow_many_sockets()
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url)
        with gateway(tmp_path, config, name="one") as one, gateway(tmp_path, config, name="two") as two:
            key, key_id = one.create_key(CREDITS)
            one.start()
            two.start()
            answers = asyncio.run(call_at_once([one.port, two.port], request(key, "slow")))
            assert_exactly(10, answers, upstream)
            assert one.stop() == two.stop() == 0
            assert audit(one.database, upstream, answers).available(key_id) == 0


def test_credits_that_failed_calls_give_back_are_sold_again_but_never_twice(tmp_path):
    """Half of the calls fail: their credits come back while others still ask."""
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server={"workers": 2})
        with gateway(tmp_path, config) as running:
            key, key_id = running.create_key(CREDITS)
            running.start()

            async def ask_on(what: str) -> list[Answer]:
                async with await Caller.open(running.port) as caller:
                    return [await caller.call(request(key, what)) for _ in range(count(40, 200))]

            async def crowd() -> list[Answer]:
                gathered = await asyncio.gather(*(ask_on(what) for what in ["ok", "fail"] * 16))
                return [answer for answers in gathered for answer in answers]

            answers = asyncio.run(crowd())
            assert Counter(answer.status for answer in answers)[200] == CREDITS == len(upstream.finished)
            assert running.stop() == 0
            assert audit(running.database, upstream, answers).available(key_id) == 0
