"""Grants through `kill -9` of whoever sends them, while Unkey fails in every way: each reference has one effect there,
or is in doubt until the books or a person tell. Nothing is sent again blindly.

Each run prints its random seed; KILL_SEED=<seed> repeats the choice of victims and moments.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests import preloaded
from tests.e2e.granting import open_granter
from tests.e2e.harness import COMMAND, count, settings, until, until_async
from tests.e2e.unkey import Unkey

KILLS = count(6, 100)
GRANTERS = 2
QUIET_KEYS, BUSY_KEYS = 3, 12
"""A busy key whose grant waits for a person gets no more."""
RESOLVE_SECONDS = 0.5
CREDITS = 1_000
FAULTS = [
    {"kind": "reset"},
    {"kind": "reset", "takes_effect": True},
    {"kind": "closed"},
    {"kind": "closed", "takes_effect": True},
    {"kind": "silent"},
    {"kind": "silent", "takes_effect": True},
    {"kind": "error"},
    {"kind": "error", "takes_effect": True},
    {"kind": "error", "status": 503, "takes_effect": True},
    {"kind": "malformed", "how": "truncated"},
    {"kind": "limited"},
    {"kind": "slow", "seconds": 0.2},
    {"kind": "slow", "seconds": 0.2, "takes_effect": True},
]
PROBABILITY = 0.05
"""Of each: every other grant is struck."""
ROOT = Path(__file__).parents[2]


class Granter:
    """A process that grants, and that may be killed."""

    def __init__(self, log: Path, told: dict[str, Any]) -> None:
        self._log = log
        self._told = told
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        begin = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            process = preloaded.Popen(
                [sys.executable, "-m", "tests.e2e.granting", json.dumps(self._told)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: b"granting" in self._log.read_bytes()[begin:] or process.poll() is not None, 30)
        assert process.poll() is None, self._log.read_text()
        return process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        self.process = self._start()


class Books:
    """Our tables, and Unkey's word on each grant."""

    def __init__(self, database: Path, unkey: Unkey) -> None:
        self.database = database
        self._unkey = unkey

    def rows(self, query: str, *values: object) -> list[tuple]:
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

    def states(self) -> Counter[str]:
        return Counter(state for (state,) in self.rows("SELECT state FROM grants"))

    def effects(self) -> Counter[int]:
        """How often Unkey added each amount."""
        updates = self._unkey.do(lambda: list(self._unkey.server.books.updates))
        return Counter(json.loads(one.asked.raw_body)["value"] for one in updates if one.carried_out)

    def check(self) -> None:
        """At any moment: no amount twice, and what is said to be applied is."""
        rows = self.rows("SELECT amount, state FROM grants")
        effects = self.effects()
        assert [amount for amount, times in effects.items() if times > 1] == [], "took effect twice"
        assert [amount for amount, state in rows if state == "applied" and not effects[amount]] == [], (
            "never took effect"
        )
        assert {state for _, state in rows} <= {"pending", "sending", "in_doubt", "applied"}

    def in_doubt(self) -> list[tuple[int, int]]:
        """Ids and amounts."""
        return self.rows("SELECT id, amount FROM grants WHERE state = 'in_doubt'")


@pytest.mark.timeout(count(240, 900))
@pytest.mark.parametrize("calls", [False, True], ids=["quiet-keys", "busy-keys"])
def test_each_reference_has_one_effect_or_is_in_doubt_whoever_is_killed_when(tmp_path, calls):
    seed = int(os.environ.get("KILL_SEED") or secrets.randbits(32))
    print(f"KILL_SEED={seed}")
    chance = random.Random(seed)
    with Unkey() as unkey:
        unkey.do(lambda: unkey.server.faults.seed(seed))
        section = unkey.section(write_timeout_seconds=0.4)
        books = Books(tmp_path / "gateway.db", unkey)
        keys = uvloop.run(_create_keys(books, section, BUSY_KEYS if calls else QUIET_KEYS))
        for fault in FAULTS:
            unkey.fail(call="updateCredits", probability=PROBABILITY, **fault)
        kills = _kill_again_and_again(tmp_path, books, section, keys, chance, KILLS // 2, calls=calls)
        unkey.do(unkey.server.faults.clear)
        granted = books.states().total()
        effects_before = books.effects()
        uvloop.run(_resolve(books, section))
        left = books.in_doubt()
        if not calls:
            assert left == [], "quiet keys, of which the books can tell"
        # A person looks into Unkey's books, and says what is there; what was not applied is sent then, once.
        config = settings(tmp_path, "http://127.0.0.1:9", credits={"provider": "unkey", "unkey": section})
        (tmp_path / "gateway.yaml").write_text(json.dumps(config))
        for number, amount in left:
            _say(tmp_path / "gateway.yaml", number, "applied" if books.effects()[amount] else "not-applied")
        uvloop.run(_resolve(books, section))
        books.check()
        assert books.states() == {"applied": granted}
        assert books.effects() == Counter(amount for (amount,) in books.rows("SELECT amount FROM grants"))
        for number, key_id, pool in books.rows("SELECT id, key_id, balance FROM keys"):
            ((total,),) = books.rows("SELECT sum(amount) FROM entries WHERE key = ?", number)
            ((doubt,),) = books.rows("SELECT coalesce(sum(amount), 0) FROM doubts WHERE key = ?", number)
            assert 0 <= total - pool - unkey.remaining(key_id) <= doubt
        resent = (books.effects() - effects_before).total()
    print(f"{kills} kills, {granted} grants, {resent} sent after they were resolved, {len(left)} by a person")
    assert granted > kills


async def _create_keys(books: Books, section: dict[str, Any], number: int) -> list[tuple[str, str]]:
    async with open_granter(books.database, section, RESOLVE_SECONDS) as provider:
        made = [await provider.create("u", credits=CREDITS) for _ in range(number)]
        return [(secret, key.key_id) for secret, key in made]


def _kill_again_and_again(
    directory: Path,
    books: Books,
    section: dict[str, Any],
    keys: list[tuple[str, str]],
    chance: random.Random,
    kills: int,
    *,
    calls: bool,
) -> int:
    """Kill a random granter at a random moment, while others grant the same; how often."""
    told = {
        "database": str(books.database),
        "section": section,
        "resolve_seconds": RESOLVE_SECONDS,
        "key_ids": [key_id for _, key_id in keys],
        "workers": 2 * len(keys),
        "secrets": [secret for secret, _ in keys] if calls else [],
    }
    with ExitStack() as stack:
        granters = [Granter(directory / f"granter-{number}.log", told) for number in range(GRANTERS)]
        for granter in granters:
            stack.callback(granter.kill)
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, 0.6))
            victim = chance.choice(granters)
            victim.kill()
            books.check()
            victim.restart()
        time.sleep(0.5)
    return kills + GRANTERS


async def _resolve(books: Books, section: dict[str, Any]) -> None:
    """Somebody goes on with what the dead left, until only a person can help."""
    async with open_granter(books.database, section, RESOLVE_SECONDS):
        await until_async(lambda: not _open(books) and not books.rows("SELECT 1 FROM unkey_holds"), 60)


def _open(books: Books) -> list[tuple]:
    """What is not settled and does not wait for a person either."""
    soon = (time.time() + 3600) * 1000
    return books.rows(
        "SELECT id FROM grants g WHERE state IN ('pending', 'sending', 'in_doubt') AND due_at < ? AND NOT EXISTS"
        " (SELECT 1 FROM grants o WHERE o.key = g.key AND o.id < g.id AND o.state = 'in_doubt' AND o.due_at >= ?)",
        soon,
        soon,
    )


def _say(config_file: Path, number: int, resolution: str) -> None:
    command = [COMMAND, "orders", "resolve", f"grant_{number}", resolution, "-c", config_file]
    preloaded.run(command, check=True, capture_output=True, timeout=60)
