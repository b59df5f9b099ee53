"""SIGTERM under open streams: what can end in time ends whole, what can't is cut so that its caller sees it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter

import pytest

from tests.e2e.audit import audit
from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import Gateway, gateway, settings, until_async
from tests.e2e.upstream import Upstream

STREAMS = ["events", "told"] * 50
WAITING = ["hang"] * 10
ROUTES = [
    {"path": "/call/{what}", "methods": ["POST"], "upstream": "main", "cost": 1},
    {"path": "/call/told", "methods": ["POST"], "upstream": "main", "cost": {"hold": 5, "settle": "X-Credits-Used"}},
]
both = pytest.mark.parametrize("workers", [1, 2])


async def terminated_amid(
    whats: list[str], running: Gateway, upstream: Upstream, key: str
) -> tuple[list[Answer], float]:
    """SIGTERM once the upstream has all of these calls and every stream has begun (streams come first in `whats`); the
    answers, and how long the gateway took to end."""
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(await Caller.open(running.port)) for _ in whats]
        for what, caller in zip(whats, callers, strict=True):
            caller.send(request(key, what))
        reading = [asyncio.create_task(caller.read()) for caller in callers]
        await until_async(lambda: len(upstream.answered) + len(upstream.failed) == len(whats))
        await until_async(lambda: all(caller.answer.body for caller in callers[: len(upstream.answered)]))
        began = time.monotonic()
        running.signal(signal.SIGTERM)
        while not await _is_refused(running.port):
            assert time.monotonic() - began < 30, "it still accepts connections"
        assert running.process is not None
        assert running.process.poll() is None, "refusing is no reason to be gone: the streams still run"
        assert not any(task.done() for task in reading)
        answers = await asyncio.gather(*reading)
    assert await asyncio.to_thread(running.wait) == 0
    return answers, time.monotonic() - began


async def _is_refused(port: int) -> bool:
    try:
        await (await Caller.open(port)).close()
    except OSError:
        return True
    return False


@both
def test_a_drain_truncates_no_stream_that_ends_within_its_limit(tmp_path, workers):
    with Upstream() as upstream:
        upstream.chunks, upstream.pause_seconds = 40, 0.05
        server = {"workers": workers, "drain_timeout_seconds": 20}
        with gateway(tmp_path, settings(tmp_path, upstream.url, server=server, routes=ROUTES)) as running:
            key, key_id = running.create_key(1_000)
            running.start()
            answers, took = asyncio.run(terminated_amid(STREAMS, running, upstream, key))
            books = audit(running.database, upstream, answers)
    assert Counter((answer.status, answer.whole) for answer in answers) == {(200, True): 100}
    assert {answer.body for answer in answers} == {b"".join(b"data: %d\n\n" % n for n in range(40))}
    assert len(upstream.finished) == 100
    assert books.available(key_id) == 1_000 - 50 * 1 - 50 * 2
    assert took < 10, "it ends when the last stream has, not at the limit"


@both
def test_a_stream_longer_than_the_drain_is_cut_visibly_and_its_hold_ends(tmp_path, workers):
    with Upstream() as upstream:
        upstream.chunks, upstream.pause_seconds = 10_000, 0.05
        server = {"workers": workers, "drain_timeout_seconds": 1}
        with gateway(tmp_path, settings(tmp_path, upstream.url, server=server, routes=ROUTES)) as running:
            key, _ = running.create_key(1_000)
            running.start()
            answers, took = asyncio.run(terminated_amid(STREAMS + WAITING, running, upstream, key))
            # Also: who has waited for an answer in vain does not pay.
            audit(running.database, upstream, answers)
    streams, waiting = answers[:100], answers[100:]
    assert {(answer.status, answer.whole) for answer in streams} == {(200, False)}
    assert all(answer.body for answer in streams)
    assert {answer.status for answer in waiting} <= {0, 502, 503, 504}
    assert 0.9 < took < 20
