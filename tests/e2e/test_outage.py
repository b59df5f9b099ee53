"""I9, fail closed: a database that does not answer means 503 in time, nothing forwarded, and recovery by itself."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time

from tests.e2e.audit import audit
from tests.e2e.caller import call, request
from tests.e2e.harness import count, gateway, settings
from tests.e2e.upstream import Upstream

CALLS = count(20, 200)
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n"
READY = b"GET /readyz HTTP/1.1\r\nHost: g\r\n\r\n"


async def timed(port, data):
    started = time.monotonic()
    answer = await call(port, data)
    return answer, time.monotonic() - started


def test_a_locked_database_is_503_in_time_and_nothing_is_forwarded(tmp_path):
    async def main(running, key):
        before = await call(running.port, request(key))
        assert before.status == 200
        blocker = sqlite3.connect(running.database, isolation_level=None)
        blocker.execute("BEGIN EXCLUSIVE")
        calls = [asyncio.create_task(timed(running.port, request(key))) for _ in range(CALLS)]
        while not all(task.done() for task in calls):
            health, seconds = await timed(running.port, HEALTH)
            assert health.status == 200
            assert seconds < 1.5, "the loop stood still while the database was locked"
            await asyncio.sleep(0.05)
        refused = [task.result() for task in calls]
        not_ready = await call(running.port, READY)
        blocker.execute("ROLLBACK")
        blocker.close()
        unlocked_at = time.monotonic()
        while (answer := await call(running.port, request(key))).status != 200:
            assert time.monotonic() - unlocked_at < 10
        ready = await call(running.port, READY)
        return [before, answer, *(one for one, _ in refused)], refused, not_ready, ready

    with Upstream() as upstream, gateway(tmp_path, settings(tmp_path, upstream.url)) as running:
        key, _ = running.create_key(1_000)
        running.start()
        answers, refused, not_ready, ready = asyncio.run(main(running, key))
        for answer, seconds in refused:
            assert answer.status == 503
            assert answer.slug == "credits-unavailable"
            assert "retry-after" in dict(answer.headers)
            assert seconds < 3.5  # two seconds and a tick of the deadlines; the rest is for a busy machine
        assert len(upstream.arrived) == sum(answer.status == 200 for answer in answers)
        assert not_ready.status == 503
        assert json.loads(not_ready.body)["checks"]["database"]["ok"] is False
        assert ready.status == 200
        assert running.stop() == 0
        audit(running.database, upstream, answers)
