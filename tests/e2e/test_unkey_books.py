"""The books with Unkey, to the credit: what was granted is what was spent for usable answers, what Unkey has left, what
is in the allotments, and what is in doubt. Under load, with failing upstreams, callers who vanish, and `kill -9`.

Each run prints its random seed; KILL_SEED=<seed> repeats the choice of victims, moments and calls.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from tests import preloaded
from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import COMMAND, Gateway, count, gateway, settings, until
from tests.e2e.test_kill import QUICK, kill_again_and_again
from tests.e2e.unkey import Unkey
from tests.e2e.upstream import TOLD, Upstream

CALLERS = 64
CALLS = count(600, 10_000)
KILLS = count(4, 60)
CREDITS = (1_000_000, 1_000_000, 50_000, 100)
"""Of the keys; the last one runs out."""
GRANTED = 70
OUTCOMES = {"ok": 12, "slow": 3, "stream": 2, "told": 3, "missing": 1, "fail": 3, "hang": 1, "reset": 1}
"""A fifth fails: 503, no answer, a reset."""
VANISHING = 0.05
COST, HOLD = 3, 7
ROUTES = [
    {"path": "/call/{what}", "methods": ["POST"], "upstream": "main", "cost": COST},
    {"path": "/call/told", "methods": ["POST"], "upstream": "main", "cost": {"hold": HOLD, "settle": "X-Credits-Used"}},
]
RECOVERY_SECONDS = 15


@dataclass
class Load:
    """Callers who call until so many calls are made, whatever happens to the gateway. Each call has a number, which the
    upstream sees; `vanished` has those whose caller did not wait."""

    running: Gateway
    keys: list[str]
    chance: random.Random
    answers: dict[int, Answer] = field(default_factory=dict)
    vanished: set[int] = field(default_factory=set)
    made: int = 0
    goes_on: bool = False
    is_under_way: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        for key in self.keys:  # so that each has been seen before anybody dies
            self.made += 1
            async with await Caller.open(self.running.port) as caller:
                self.answers[self.made] = await caller.call(request(key, f"ok?n={self.made}"))
        self.is_under_way.set()
        await asyncio.gather(*(self._call_on(random.Random(self.chance.random())) for _ in range(CALLERS)))

    async def _call_on(self, chance: random.Random) -> None:
        while self.made < CALLS or self.goes_on:
            try:
                caller = await Caller.open(self.running.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            async with caller:
                while caller.usable and (self.made < CALLS or self.goes_on):
                    self.made += 1
                    await self._call(caller, self.made, chance)

    async def _call(self, caller: Caller, number: int, chance: random.Random) -> None:
        what = chance.choices(list(OUTCOMES), list(OUTCOMES.values()))[0]
        data = request(chance.choice(self.keys), f"{what}?n={number}")
        if chance.random() < VANISHING:
            self.vanished.add(number)
            caller.send(data)
            await asyncio.sleep(chance.uniform(0, 0.05))
            caller.writer.transport.abort()
            caller.usable = False
        else:
            self.answers[number] = await caller.call(data)


class Books:
    """Our tables, of one moment."""

    def __init__(self, running: Gateway) -> None:
        with closing(sqlite3.connect(f"file:{running.database}?mode=ro", uri=True)) as connection:
            connection.execute("BEGIN")

            def rows(query: str) -> list[tuple]:
                return connection.execute(query).fetchall()

            self.open_holds = rows("SELECT * FROM unkey_holds")
            self.keys = {
                unkey_id: (number, pool, held)
                for number, unkey_id, pool, held in rows("SELECT id, unkey_id, balance, held FROM keys")
            }
            self.entries = rows("SELECT key, kind, amount, request_id, reason FROM entries")
            # A doubt about the first use of a key knows it by its secret only.
            self.doubts = rows(
                """SELECT k.id, amount, request_id, cause FROM doubts d
                   LEFT JOIN keys k ON k.id = d.key OR (d.key = 0 AND (k.key_hash = d.key_hash
                       OR k.id IN (SELECT key FROM retired_keys r WHERE r.key_hash = d.key_hash)))
                   WHERE resolution IS NULL"""
            )
            self.grants = Counter(state for (state,) in rows("SELECT state FROM grants"))
        ends = [
            (request_id, (-amount, reason)) for _, kind, amount, request_id, reason in self.entries if kind == "spend"
        ]
        self.ends = dict(ends)
        assert len(self.ends) == len(ends), "a hold ended twice"

    def total(self, unkey_id: str, kind: str) -> int:
        """Credits of a key: `granted`, `spent` or in `doubt`."""
        number = self.keys[unkey_id][0]
        if kind == "doubt":
            return sum(amount for key, amount, _, _ in self.doubts if key == number)
        return sum(
            -amount if kind == "spent" else amount
            for key, entry, amount, _, _ in self.entries
            if key == number and (entry == "spend") == (kind == "spent")
        )


def audit(books: Books, unkey: Unkey, upstream: Upstream, load: Load, granted: dict[str, int], *, deaths: bool) -> None:
    """Every credit is where it should be."""
    assert books.open_holds == []
    for unkey_id, amount in granted.items():
        _, pool, held = books.keys[unkey_id]
        spent, doubt = books.total(unkey_id, "spent"), books.total(unkey_id, "doubt")
        taken = unkey.taken(unkey_id)
        assert books.total(unkey_id, "granted") == amount
        assert amount == taken + unkey.remaining(unkey_id)
        assert held == 0
        assert pool >= 0
        assert 0 <= taken - spent - pool <= doubt, (
            f"{unkey_id}: taken {taken}, spent {spent}, pool {pool}, doubt {doubt}"
        )
    if not deaths:
        assert books.doubts == []
    doubtful = {request_id for _, _, request_id, _ in books.doubts}
    assert not doubtful & books.ends.keys(), "in doubt, and ended"
    # A refusal (402) needs nothing written before it is told, so a process may die between.
    served = {answer.request_id for answer in load.answers.values() if answer.status and not answer.slug}
    assert not doubtful & served, "in doubt, and served"
    _audit_calls(books, upstream, load, doubtful, deaths=deaths)


def _audit_calls(books: Books, upstream: Upstream, load: Load, doubtful: set[str], *, deaths: bool) -> None:
    """What each call cost is what the upstream's answer was worth."""
    assert [request_id for request_id, times in upstream.arrived.items() if times > 1] == [], "forwarded twice"
    for seen in upstream.seen:
        request_id, price = seen.request_id, HOLD if seen.what == "told" else COST
        if request_id in doubtful:
            assert deaths
            continue
        paid, reason = books.ends[request_id]  # else: forwarded without a hold
        worth = (TOLD if seen.what == "told" else COST) if upstream.answered[request_id] else 0
        allowed = {worth}
        if reason == "timeout":  # the upstream has answered, but too late
            allowed = {0}
        number = int(seen.target.partition("?n=")[2])
        if number in load.vanished:
            allowed |= {price} if reason else set()
        elif not load.answers[number].whole:
            allowed.add(price)  # a busy machine: the answer stood still, was cut off, and told no cost any more
        if deaths:
            # Released, or settled whole where the answer was under way.
            allowed |= {0, price} if reason == "gateway died" else {price if upstream.answered[request_id] else 0}
        assert paid in allowed, f"{seen.what} {request_id} paid {paid} ({reason}), and was worth {worth}"
    charged = {request_id for request_id, (paid, _) in books.ends.items() if paid}
    assert charged <= upstream.arrived.keys(), "charged, and never forwarded"
    for answer in load.answers.values():
        paid, _ = books.ends.get(answer.request_id, (0, None))
        if answer.status >= 500 or answer.status in (401, 402):
            assert paid == 0, f"{answer} paid {paid}"
        elif answer.status and answer.cost is not None:
            assert paid == answer.cost, f"{answer} paid {paid}"


def grant(running: Gateway, key_id: str, reference: str) -> None:
    """As an operator does it."""
    arguments = [key_id, str(GRANTED), "--reason", "test", "--reference", reference, "-c", running.config_file]
    preloaded.run([COMMAND, "credits", "grant", *arguments], check=True, capture_output=True, timeout=60)


def listed(running: Gateway) -> list[dict]:
    done = preloaded.run(
        [COMMAND, "orders", "list", "--json", "--limit", "1000", "-c", running.config_file],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.mark.timeout(count(240, 1_800))
@pytest.mark.parametrize("kills", [0, KILLS], ids=["nobody-dies", "kill-9"])
def test_every_credit_is_accounted_for(tmp_path, kills):
    seed = int(os.environ.get("KILL_SEED") or secrets.randbits(32))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    with Unkey() as unkey, Upstream() as upstream:
        config = settings(
            tmp_path,
            upstream.url,
            server={"workers": 2, "drain_timeout_seconds": 2},
            upstream={"response_timeout_seconds": 0.5, "idle_timeout_seconds": 2},
            routes=ROUTES,
            # Only a death is to leave a doubt here, not this machine's load.
            credits={"provider": "unkey", "unkey": unkey.section(verify_timeout_seconds=10), **QUICK},
        )
        with gateway(tmp_path, config) as running:
            made = [running.create_key(amount, user=f"user-{n}") for n, amount in enumerate(CREDITS[:2])]
            made += [unkey.create_key(amount)[::-1] for amount in CREDITS[2:]]
            running.start()
            grant(running, made[0][1], "order:1")
            load = Load(running, [secret for secret, _ in made], chance)
            done = asyncio.run(_load(load, running, made[0][1], kills))
            until(lambda: not Books(running).open_holds, RECOVERY_SECONDS)
            assert running.stop() == 0
            until(lambda: not running.left_over())
            assert "Traceback" not in running.errors
            grants = 1 if kills else 2
            granted = {key_id: amount for (_, key_id), amount in zip(made, CREDITS, strict=True)}
            granted[made[0][1]] += grants * GRANTED
            books = Books(running)
            audit(books, unkey, upstream, load, granted, deaths=bool(kills))
            _audit_movements(books, unkey, listed(running), grants)
    statuses = Counter(answer.status for answer in load.answers.values())
    reasons = Counter(reason for _, reason in books.ends.values())
    print(f"{dict(done)}; calls {dict(statuses)}; ends {dict(reasons)}; doubts {len(books.doubts)}")
    # The run was worth it.
    assert {200, 402, 404, 502, 503, 504} <= statuses.keys()
    assert load.made >= CALLS
    assert len(books.doubts) <= CALLERS * done.total()
    assert not kills or reasons["gateway died"] + len(books.doubts) >= kills // 4


async def _load(load: Load, running: Gateway, key_id: str, kills: int) -> Counter[str]:
    load.goes_on = True
    calling = asyncio.create_task(load.run())
    await load.is_under_way.wait()
    done: Counter[str] = Counter()
    try:
        if kills:
            done = await kill_again_and_again(running, kills, load.chance)
        else:
            await asyncio.to_thread(grant, running, key_id, "order:2")
    finally:
        load.goes_on = False
        await calling
    return done


def _audit_movements(books: Books, unkey: Unkey, movements: list[dict], grants: int) -> None:
    """Doubts are listed, one by one; and Unkey was asked to change a count for the grants alone."""
    doubtful = sorted((f"call_{amount}", request_id) for _, amount, request_id, _ in books.doubts)
    assert sorted((f"call_{-movement['amount']}", movement["reference"]) for movement in movements) == doubtful
    assert {movement["state"] for movement in movements} <= {"in-doubt"}
    updates = [json.loads(one.asked.raw_body) for one in unkey.do(lambda: list(unkey.server.books.updates))]
    assert [(body["operation"], body["value"]) for body in updates] == [("increment", GRANTED)] * grants
    assert books.grants == {"applied": grants}
