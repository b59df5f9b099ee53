"""Idempotency-Key at real processes: a call that comes again is charged once in all, whoever is killed when.

Each run prints its random seed; KILL_SEED=<seed> repeats the choice of moments and calls.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.database.postgres import rows
from tests.e2e.audit import audit, open_holds
from tests.e2e.caller import Answer, Caller, call, request
from tests.e2e.harness import Gateway, allow_many_sockets, count, gateway, settings, until, until_async
from tests.e2e.test_kill import QUICK
from tests.e2e.unkey import Unkey
from tests.e2e.upstream import BODY, Upstream

COST = 3
COPIES = 50
ROUTES = [
    {
        "path": "/call/{what}",
        "methods": ["POST"],
        "upstream": "main",
        "cost": COST,
        "idempotency": {"keep_seconds": 3_600},
    }
]
CALLERS = 12
KILLS = count(6, 150)


def once(key: str, idempotency_key: str, what: str = "ok") -> bytes:
    return request(key, what, extra=f"Idempotency-Key: {idempotency_key}\r\n")


def url_of(running: Gateway) -> str:
    return f"sqlite:///{running.database}"


def charges(url: str) -> list[int]:
    return [-amount for (amount,) in rows(url, "SELECT amount FROM entries WHERE kind = 'spend' AND amount <> 0")]


@contextmanager
def gateways(directory: Path, upstream: Upstream, kind: str, postgres_url) -> Iterator[tuple[list[Gateway], str]]:
    """Two workers; on PostgreSQL two replicas of two workers."""
    sections: dict = {"server": {"workers": 2}, "routes": ROUTES}
    with ExitStack() as stack:
        if kind == "unkey":
            unkey = stack.enter_context(Unkey())
            sections["credits"] = {"provider": "unkey", "unkey": unkey.section()}
        url = f"sqlite:///{directory / 'gateway.db'}"
        if kind == "postgresql":
            url = postgres_url()
            sections["database"] = {"url": url}
        names = ["one", "two"] if kind == "postgresql" else ["one"]
        config = settings(directory, upstream.url, **sections)
        yield [stack.enter_context(gateway(directory, config, name=name)) for name in names], url


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "unkey"])
def test_of_copies_at_once_one_reaches_the_upstream_and_one_is_charged(tmp_path, request, kind):
    allow_many_sockets()
    database = lambda: request.getfixturevalue("postgres").create()  # noqa: E731

    async def crowd(ports: list[int], data: bytes) -> list[Answer]:
        return await asyncio.gather(*(call(ports[n % len(ports)], data) for n in range(COPIES)))

    with Upstream() as upstream, gateways(tmp_path, upstream, kind, database) as (running, url):
        key, key_id = running[0].create_key(1_000)
        for one in running:
            one.start()
        ports = [one.port for one in running]
        answers = asyncio.run(crowd(ports, once(key, "a", "slow")))
        told = Counter((answer.status, answer.slug) for answer in answers)
        assert set(told) == {(200, ""), (409, "conflict")}
        assert {answer.body for answer in answers if answer.status == 200} == {BODY}
        first = [a for a in answers if a.status == 200 and "idempotency-replayed" not in a.headers]
        assert len(first) == 1
        again = asyncio.run(crowd(ports, once(key, "a", "slow")))
        assert {(answer.status, answer.body, answer.cost) for answer in again} == {(200, BODY, 0)}
        assert sum(upstream.arrived.values()) == 1
        assert [one.stop() for one in running] == [0] * len(running)
        assert charges(url) == [COST]
        if kind != "unkey":
            assert audit(url, upstream, first).available(key_id) == 1_000 - COST


class Repeater:
    """Makes calls, and each of them again until it is done: until it is answered, or told to have been done."""

    def __init__(self, running: Gateway, key: str, name: str, chance: random.Random) -> None:
        self.done = 0
        self.told: Counter[str] = Counter()
        self._running = running
        self._key = key
        self._name = name
        self._chance = chance

    async def run(self, is_over) -> None:
        while not is_over():
            what = self._chance.choice(["ok", "slow", "slow", "events", "fail"])
            data = once(self._key, f"{self._name}-{self.done}", "slow" if what == "fail" else what)
            while not self._is_done(await self._try(data)):
                await asyncio.sleep(0.02)
            self.done += 1

    async def _try(self, data: bytes) -> Answer:
        if self._chance.random() < 0.8:
            return await call(self._running.port, data)
        try:  # leaves, at some moment
            async with await Caller.open(self._running.port) as caller:
                caller.send(data)
                await asyncio.sleep(self._chance.uniform(0, 0.25))
        except OSError:
            pass
        return Answer()

    def _is_done(self, answer: Answer) -> bool:
        if answer.status == 200 and answer.whole:
            self.told["replayed" if answer.headers.get("idempotency-replayed") else "answered"] += 1
            return True
        if answer.status == 409 and b'"done":true' in answer.body:
            self.told["done"] += 1
            return True
        assert answer.status in {0, 200, 409, 503}, answer
        return False


@pytest.mark.timeout(count(240, 1_800))
def test_calls_that_are_repeated_until_they_are_done_are_charged_once_each_through_kill_9(tmp_path):
    """Callers leave in between, too. What was charged is what was done, call by call."""
    seed = int(os.environ.get("KILL_SEED") or secrets.randbits(32))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server={"workers": 2}, routes=ROUTES, credits=QUICK)
        with gateway(tmp_path, config) as running:
            key, key_id = running.create_key(1_000_000)
            running.start()
            repeaters = [Repeater(running, key, f"c{n}", random.Random(chance.random())) for n in range(CALLERS)]
            over = asyncio.Event()

            async def kill_and_repeat() -> None:
                tasks = [asyncio.create_task(one.run(over.is_set)) for one in repeaters]
                for number in range(KILLS):
                    await asyncio.sleep(chance.uniform(0.2, 1.0))
                    if number % 3 == 2:
                        running.kill_group()
                        await asyncio.to_thread(running.start)
                    else:
                        await until_async(lambda: len(running.workers()) == 2)
                        chance.choice(running.workers()).kill()
                over.set()
                await asyncio.gather(*tasks)

            asyncio.run(kill_and_repeat())
            until(lambda: open_holds(running.database) == 0)
            assert running.stop() == 0
            books = audit(running.database, upstream)
    done = sum(one.done for one in repeaters)
    told = sum((one.told for one in repeaters), Counter())
    reasons = Counter(entry.reason for entry in books.spent.values())
    print(f"{done} calls, {sum(upstream.arrived.values())} at the upstream; {dict(told)}; {dict(reasons)}")
    names = Counter(seen.get("idempotency-key") for seen in upstream.seen if seen.request_id in books.charged)
    assert {name: times for name, times in names.items() if times > 1} == {}
    assert list(books.charged.values()) == [COST] * done
    assert books.available(key_id) == 1_000_000 - COST * done
    # The run was worth it: calls were met by a kill, and answers were kept for who came back.
    assert reasons["gateway died"]
    assert told["replayed"]


def test_a_call_whose_caller_left_is_finished_while_the_gateway_stops(tmp_path):
    with Upstream() as upstream:
        upstream.slow_seconds = 1.0
        config = settings(tmp_path, upstream.url, routes=ROUTES, log={"format": "json"})
        with gateway(tmp_path, config) as running:
            key, key_id = running.create_key(10)
            running.start()

            async def ask_and_leave() -> None:
                async with await Caller.open(running.port) as caller:
                    caller.send(once(key, "a", "slow"))
                    await until_async(lambda: upstream.arrived)

            asyncio.run(ask_and_leave())
            running.signal(signal.SIGTERM)
            assert running.wait() == 0
            assert charges(url_of(running)) == [COST]
            running.start()
            again = asyncio.run(call(running.port, once(key, "a", "slow")))
            assert (again.status, again.body, again.cost) == (200, BODY, 0)
            assert running.stop() == 0
            assert '"verdict":"replayed"' in running.errors
            assert sum(upstream.arrived.values()) == 1
            assert audit(running.database, upstream).available(key_id) == 10 - COST
