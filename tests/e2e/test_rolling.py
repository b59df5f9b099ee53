"""A rolling restart: one replica after the other ends and starts anew, and no caller of the pair notices."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from tests.e2e.audit import audit
from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import Gateway, count, until_async
from tests.e2e.test_replicas import replicas
from tests.e2e.upstream import Upstream

CALLS = count(500, 50_000)
CREDITS = 1_000_000
CALLERS = 32
RATE = 500
"""Calls per second, at most."""


class Balancer:
    """Calls whichever replica takes connections, as a load balancer does: another one where nobody listens, and a new
    connection where the old one has been closed. What has been sent is not sent again."""

    def __init__(self, both: list[Gateway], data: bytes) -> None:
        self.answers: list[Answer] = []
        self.is_over = False
        self._both = both
        self._data = data
        self._begin = time.monotonic()
        self._begun = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                callers.create_task(self._call_on(number))

    async def _call_on(self, number: int) -> None:
        while not self.is_over:
            number += 1
            try:
                caller = await Caller.open(self._both[number % 2].port)
            except OSError:
                await asyncio.sleep(0.001)
                continue
            async with caller:
                while caller.usable and not caller.reader.at_eof() and not self.is_over:
                    self.answers.append(await caller.call(self._data))
                    await self._pace()

    async def _pace(self) -> None:
        self._begun += 1
        await asyncio.sleep(max(0.0, self._begin + self._begun / RATE - time.monotonic()))


@pytest.mark.timeout(count(240, 1_800))
def test_nobody_notices_a_rolling_restart(tmp_path, postgres):
    url = postgres.create()
    with Upstream() as upstream, replicas(tmp_path, url, upstream.url) as both:
        key, key_id = both[0].create_key(CREDITS)
        for one in both:
            one.start()
        balancer = Balancer(both, request(key))

        async def restart_again_and_again() -> int:
            rounds = 0
            while len(balancer.answers) < CALLS or not rounds:
                for one in both:
                    assert await asyncio.to_thread(one.stop) == 0
                    await asyncio.to_thread(one.start)
                    before = len(balancer.answers)
                    await until_async(lambda before=before: len(balancer.answers) > before + CALLERS)
                rounds += 1
            balancer.is_over = True
            return rounds

        async def story() -> int:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(balancer.run())
                restarting = tasks.create_task(restart_again_and_again())
            return restarting.result()

        rounds = asyncio.run(story())
        assert [one.stop() for one in both] == [0, 0]
        statuses = Counter(answer.status for answer in balancer.answers)
        print(f"{rounds} times both restarted, {dict(statuses)}")
        assert statuses.keys() == {200}
        assert all(answer.whole for answer in balancer.answers)
        books = audit(url, upstream, balancer.answers)
        assert books.available(key_id) == CREDITS - len(balancer.answers)
