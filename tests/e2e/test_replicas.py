"""Two replicas of two workers each on one PostgreSQL: I1 in a crowd, and the books when replicas and the server die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import preloaded
from tests.e2e import test_kill
from tests.e2e.audit import audit
from tests.e2e.caller import request
from tests.e2e.harness import COMMAND, Gateway, allow_many_sockets, count, gateway, settings, until_async
from tests.e2e.test_concurrency import CREDITS, assert_exactly, call_at_once
from tests.e2e.test_kill import KEYS, QUICK, ROUTES, Load
from tests.e2e.upstream import Upstream

HARMS = {"replica": count(1, 100), "server": count(1, 50)}
SERVED_AGAIN = 30
"""Calls that must be served after each harm, before the next."""


@contextlib.contextmanager
def replicas(directory: Path, url: str, target: str, **sections) -> Iterator[list[Gateway]]:
    server = {"workers": 2, "watch_config": False}
    config = settings(directory, target, server=server, database={"url": url}, **sections)
    with gateway(directory, config, name="one") as one, gateway(directory, config, name="two") as two:
        yield [one, two]


def migrate(directory: Path, url: str) -> subprocess.Popen[bytes]:
    file = directory / "migrate.yaml"
    file.write_text(f"database: {{url: '{url}'}}")
    return preloaded.Popen([COMMAND, "migrate", "-c", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_replicas_want_a_migrated_database_and_sell_exactly_what_the_credits_pay_for(tmp_path, postgres):
    allow_many_sockets()
    url = postgres.create(template="template1")
    with Upstream() as upstream, replicas(tmp_path, url, upstream.url) as both:
        refused = subprocess.run([COMMAND, "serve", "-c", both[0].config_file], capture_output=True, check=False)
        assert refused.returncode == 1
        assert b"gateway migrate" in refused.stderr
        assert [done.wait(60) for done in [migrate(tmp_path, url), migrate(tmp_path, url)]] == [0, 0]
        key, key_id = both[0].create_key(CREDITS)
        for one in both:
            one.start()
        answers = asyncio.run(call_at_once([one.port for one in both], request(key, "slow")))
        assert_exactly(10, answers, upstream)
        assert [one.stop() for one in both] == [0, 0]
        assert audit(url, upstream, answers).available(key_id) == 0


@pytest.mark.timeout(count(240, 3_600))
def test_the_books_hold_when_replicas_are_killed_and_the_server_dies_under_load(tmp_path, postgres):
    """And everybody is answered, or sees the connection break: `Load` waits for no answer longer than 30 s."""
    seed = int(os.environ.get("KILL_SEED") or secrets.randbits(32))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    harms = [what for what, times in HARMS.items() for _ in range(times)]
    chance.shuffle(harms)
    url = postgres.create()
    sections = {"upstream": {"response_timeout_seconds": 0.5}, "routes": ROUTES, "credits": QUICK}
    with Upstream() as upstream, replicas(tmp_path, url, upstream.url, **sections) as both:
        keys = [
            both[0].create_key(test_kill.CREDITS, f"user-{n}", spend_caps=test_kill.CAPS[n % 2])[0] for n in range(KEYS)
        ]
        for one in both:
            one.start()
        loads = [Load(one, keys, chance) for one in both]

        async def harm(what: str) -> None:
            await asyncio.sleep(chance.uniform(0.1, 0.8))
            if what == "server":
                await asyncio.to_thread(postgres.restart)
            else:
                victim = chance.choice(both)
                victim.kill_group()
                await asyncio.to_thread(victim.start)
            before = served(loads)
            await until_async(lambda: served(loads) >= before + SERVED_AGAIN, 60)

        async def story() -> None:
            async with asyncio.TaskGroup() as callers:
                for load in loads:
                    callers.create_task(load.run())
                try:
                    for what in harms:
                        await harm(what)
                finally:
                    for load in loads:
                        load.stopped = True

        asyncio.run(story())
        assert [one.stop() for one in both] == [0, 0]
        assert not any("Traceback" in one.errors for one in both)
        answers = [answer for load in loads for answer in load.answers]
        audit(url, upstream, answers)
    statuses = Counter(f"{answer.status} {answer.slug}".rstrip() for answer in answers)
    print(f"{HARMS}; calls {dict(statuses)}")
    assert {answer.status for answer in answers} <= {0, 200, 404, 500, 502, 503, 504}


def served(loads: list[Load]) -> int:
    return sum(answer.status == 200 for load in loads for answer in load.answers)
