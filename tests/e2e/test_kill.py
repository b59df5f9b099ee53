"""I1 to I4 and I8 through `kill -9` under load: of a worker, of all processes at once, of the supervisor alone; and
through a sleep so long that a worker is taken for dead.

Each run prints its random seed; KILL_SEED=<seed> repeats the choice of victims, moments and calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.audit import audit, open_holds
from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import TORTURE, Gateway, count, gateway, settings, until, until_async
from tests.e2e.upstream import Upstream

CALLERS = 32
KEYS = 4
CREDITS = 1_000_000
CAPS = [{}, {"day": CREDITS, "month": CREDITS}]
"""Of every other key: never reached, so that all is counted."""
OUTCOMES = {"ok": 8, "fail": 4, "slow": 4, "hang": 2, "stream": 4, "told": 3, "reset": 1, "missing": 1}
VICTIMS = {"worker": 5, "group": 3, "main": 2}
ROUTES = [
    {"path": "/call/{what}", "methods": ["POST"], "upstream": "main", "cost": 3},
    {"path": "/call/told", "methods": ["POST"], "upstream": "main", "cost": {"hold": 7, "settle": "X-Credits-Used"}},
]
Harm = Callable[[Gateway, int, random.Random], Coroutine[Any, Any, Counter[str]]]
QUICK = {"heartbeat_seconds": 0.2, "dead_after_seconds": 1.0}
RUNS = [(200, QUICK), (40, {})] if TORTURE else [(6, QUICK)]
"""How many kills, with which `credits` section: {} is the default heartbeat."""
ENDED_WITHIN_SECONDS = 60
"""The contract: no hold of a dead process is open for longer."""


class Load:
    """Callers who call without a pause, whatever happens to the gateway, and remember every answer."""

    def __init__(self, running: Gateway, keys: list[str], chance: random.Random) -> None:
        self.answers: list[Answer] = []
        self.stopped = False
        self._running = running
        self._keys = keys
        self._seeds = [chance.random() for _ in range(CALLERS)]

    async def run(self) -> None:
        await asyncio.gather(*(self._call_on(random.Random(seed)) for seed in self._seeds))

    async def _call_on(self, chance: random.Random) -> None:
        while not self.stopped:
            try:
                caller = await Caller.open(self._running.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            async with caller:
                while caller.usable and not self.stopped:
                    what = chance.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
                    self.answers.append(await caller.call(request(chance.choice(self._keys), what)))


async def kill_again_and_again(running: Gateway, kills: int, chance: random.Random) -> Counter[str]:
    """Kill a random victim at a random moment, and start again what does not come back by itself."""
    done: Counter[str] = Counter()
    while done.total() < kills:
        await asyncio.sleep(chance.uniform(0.02, 0.5))
        victim = chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        if victim == "worker":
            workers = running.workers()
            if not workers:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(workers).pid, signal.SIGKILL)
        else:
            (running.kill_group if victim == "group" else running.kill_main)()
            await asyncio.to_thread(running.start)
        done[victim] += 1
    return done


async def put_to_sleep_again_and_again(running: Gateway, times: int, chance: random.Random) -> Counter[str]:
    """Stop a worker for so long that the other one takes it for dead, and let it go on where it was."""
    for _ in range(times):
        await asyncio.sleep(chance.uniform(0.3, 0.8))
        worker = chance.choice(running.workers()).pid
        os.kill(worker, signal.SIGSTOP)
        await asyncio.sleep(QUICK["dead_after_seconds"] + chance.uniform(0.5, 1.0))
        os.kill(worker, signal.SIGCONT)
    return Counter({"put to sleep": times})


def harm_and_audit(directory: Path, harm: Harm, times: int, credits: dict[str, Any]) -> None:
    """The whole experiment: load, harm, a little time to recover, and the audit of what is left behind."""
    seed = int(os.environ.get("KILL_SEED") or secrets.randbits(32))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    with Upstream() as upstream:
        config = settings(
            directory,
            upstream.url,
            server={"workers": 2, "drain_timeout_seconds": 2},
            upstream={"response_timeout_seconds": 0.5, "idle_timeout_seconds": 2},
            routes=ROUTES,
            credits=credits,
        )
        with gateway(directory, config) as running:
            keys = [running.create_key(CREDITS, f"user-{n}", spend_caps=CAPS[n % 2])[0] for n in range(KEYS)]
            running.start()
            load = Load(running, keys, chance)
            done, ended_after = asyncio.run(_harm_under(load, harm(running, times, chance), running))
            assert running.stop() == 0
            until(lambda: not running.left_over())
            assert "Traceback" not in running.errors
            books = audit(running.database, upstream, load.answers)
    statuses = Counter(f"{answer.status} {answer.slug}".rstrip() for answer in load.answers)
    reasons = Counter(entry.reason for entry in books.spent.values())
    print(f"{dict(done)}; calls {dict(statuses)}; ends {dict(reasons)}; last hold after {ended_after:.1f} s")
    # The run was worth it: calls in flight were met, and calls of every kind were answered.
    assert reasons["gateway died"] >= times // 4
    assert {200, 404, 502, 503} <= {answer.status for answer in load.answers}  # 504 only where a hang outlives a kill
    # With quick beats, what is open is over after the slowest call, dead_after and a few beats.
    assert ended_after < (10 if credits else ENDED_WITHIN_SECONDS)


async def _harm_under(
    load: Load, harm: Coroutine[Any, Any, Counter[str]], running: Gateway
) -> tuple[Counter[str], float]:
    callers = asyncio.create_task(load.run())
    try:
        done = await harm
    finally:
        over_at = time.monotonic()
        load.stopped = True
        await callers
    await until_async(lambda: open_holds(running.database) == 0, ENDED_WITHIN_SECONDS)
    return done, time.monotonic() - over_at


@pytest.mark.timeout(count(240, 1_800))
@pytest.mark.parametrize(("kills", "credits"), RUNS)
def test_the_books_hold_through_kill_9_at_random_moments(tmp_path, kills, credits):
    harm_and_audit(tmp_path, kill_again_and_again, kills, credits)


@pytest.mark.timeout(count(240, 600))
def test_the_books_hold_when_a_worker_that_was_taken_for_dead_goes_on(tmp_path):
    """Its holds were ended by the other: what it then gets from upstream must neither be served nor be charged."""
    harm_and_audit(tmp_path, put_to_sleep_again_and_again, count(1, 30), QUICK)
