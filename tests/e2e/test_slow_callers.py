"""Callers who are slow on purpose are cut off in time, cost the upstream nothing, and nobody else feels them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest

from tests.e2e.audit import audit
from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import allow_many_sockets, count, gateway, settings
from tests.e2e.upstream import Upstream

SLOW = count(100, 500)
GOOD_CALLERS = 4
LIMIT_SECONDS = 1
CUT_WITHIN_SECONDS = LIMIT_SECONDS + 5
LATENCY_MAX_SECONDS = 1.0
"""For 19 of 20 good calls while all the slow ones are there: generous, for a machine that does other things too."""


async def silent(caller: Caller, key: str) -> None:
    """Connects, and that is all."""


async def slow_head(caller: Caller, key: str) -> None:
    """A byte of the head now and then: never idle, never done."""
    for byte in request(key):
        caller.send(bytes([byte]))
        await asyncio.sleep(0.1)


async def slow_body(caller: Caller, key: str) -> None:
    """A head that announces 100 bytes, and the first of them."""
    caller.send(request(key, body=b"x" * 100)[:-99])


async def idle(caller: Caller, key: str) -> None:
    """One good call, then silence on the open connection."""
    assert (await caller.call(request(key))).status == 200


async def time_to_cut(port: int, behave: Callable[[Caller, str], Coroutine[None, None, None]], key: str) -> float:
    """How long the gateway bears with such a caller, in seconds."""
    async with await Caller.open(port) as caller:
        began = time.monotonic()
        behaving = asyncio.create_task(behave(caller, key))
        with contextlib.suppress(OSError):
            if behave is idle:
                await behaving
            async with asyncio.timeout(CUT_WITHIN_SECONDS + 10):
                while await caller.reader.read(65_536):
                    pass
        took = time.monotonic() - began
        behaving.cancel()
        await asyncio.wait([behaving])
        return took


@contextlib.asynccontextmanager
async def good_traffic(port: int, key: str) -> AsyncIterator[tuple[list[Answer], list[float]]]:
    """Answers and latencies of well-behaved callers, until the block ends."""
    answers: list[Answer] = []
    latencies: list[float] = []
    stopped = asyncio.Event()

    async def call_on() -> None:
        async with await Caller.open(port) as caller:
            while not stopped.is_set():
                began = time.monotonic()
                answers.append(await caller.call(request(key)))
                latencies.append(time.monotonic() - began)
                await asyncio.sleep(0.005)

    callers = [asyncio.create_task(call_on()) for _ in range(GOOD_CALLERS)]
    try:
        yield answers, latencies
    finally:
        stopped.set()
        await asyncio.gather(*callers)


@pytest.mark.parametrize("behave", [silent, slow_head, slow_body, idle], ids=lambda behave: behave.__name__)
def test_slow_callers_are_cut_off_and_good_ones_do_not_notice(tmp_path, behave):
    allow_many_sockets()
    limits = ["head_timeout_seconds", "body_idle_timeout_seconds", "keep_alive_timeout_seconds"]
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server=dict.fromkeys(limits, LIMIT_SECONDS))
        with gateway(tmp_path, config) as running:
            good_key, good_id = running.create_key(100_000, user="good")
            slow_key, slow_id = running.create_key(100_000, user="slow")
            running.start()

            async def siege() -> tuple[list[float], list[Answer], list[float]]:
                async with good_traffic(running.port, good_key) as (answers, latencies):
                    cut = await asyncio.gather(*(time_to_cut(running.port, behave, slow_key) for _ in range(SLOW)))
                return cut, answers, latencies

            cut, answers, latencies = asyncio.run(siege())
            assert running.stop() == 0
            books = audit(running.database, upstream, answers)
    assert max(cut) < CUT_WITHIN_SECONDS
    assert min(cut) > LIMIT_SECONDS / 2, "patience was promised, too"
    assert Counter(answer.status for answer in answers).keys() == {200}
    assert len(answers) > 20
    assert sorted(latencies)[len(latencies) * 19 // 20] < LATENCY_MAX_SECONDS
    assert books.available(good_id) == 100_000 - len(answers)
    assert books.available(slow_id) == 100_000 - (SLOW if behave is idle else 0)
