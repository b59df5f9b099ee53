"""A provider on a fresh database, and the audit that every test may call: the invariants, from the tables alone."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.credits import ledger as ledger_module
from gateway.credits.local import LocalProvider, Settings
from gateway.database.engine import open_database
from gateway.deadlines import Deadlines
from tests.database.postgres import rows, url_of

NOON = int(datetime(2030, 3, 15, 12, tzinfo=UTC).timestamp() * 1000)


class Ledger:
    """Opens providers on one database, as so many processes would, and audits it. `path`: of SQLite's file."""

    def __init__(self, database: Path | str) -> None:
        self.url = url_of(database)
        self.path = Path(self.url.removeprefix("sqlite:///"))

    @contextlib.asynccontextmanager
    async def provider(self, **settings: Any) -> AsyncIterator[LocalProvider]:
        database = open_database(self.url)
        deadlines = Deadlines(asyncio.get_running_loop(), tick_seconds=0.02)
        provider = LocalProvider(database, deadlines, Settings(**settings))
        await provider.open()
        try:
            yield provider
        finally:
            await provider.aclose()
            await database.aclose()
            deadlines.close()

    def patient_provider(self) -> contextlib.AbstractAsyncContextManager[LocalProvider]:
        """One that answers late rather than not at all, for a crowd that a busy machine does not serve in time."""
        return self.provider(hold_timeout_seconds=60)

    def audit(self) -> None:
        """I1, I2 and I3, from the tables alone."""
        wrong = self.rows(
            """SELECT k.key_id, k.balance, k.held, e.total, coalesce(h.total, 0) FROM keys k
               LEFT JOIN (SELECT key, sum(amount) AS total FROM entries GROUP BY key) e ON e.key = k.id
               LEFT JOIN (SELECT key, sum(cost) AS total FROM holds GROUP BY key) h ON h.key = k.id
               WHERE k.held != coalesce(h.total, 0)
                  OR (k.balance IS NOT NULL AND k.balance != coalesce(e.total, 0))
                  OR k.balance < k.held"""
        )
        assert wrong == [], f"key, balance, held, entries, holds: {wrong}"
        doubled = self.rows(
            "SELECT request_id, count(*) FROM entries WHERE request_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1"
        )
        assert doubled == [], f"holds that ended twice: {doubled}"

    def open_holds(self) -> int:
        return self.count("holds")

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return rows(self.url, query, *values)


@pytest.fixture
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """On SQLite, but where a test says `postgresql`."""
    if getattr(request, "param", "sqlite") == "postgresql":
        return Ledger(request.getfixturevalue("postgres").create())
    return Ledger(tmp_path / "gateway.db")


class Clock:
    """The wall clock of all processes; `now` is Unix milliseconds."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the books go by, standing still until a test moves it."""
    clock = Clock()
    monkeypatch.setattr(ledger_module, "now_ms", clock)
    return clock


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    return uvloop.run


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Wait for a condition, never longer than `seconds`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, "waited too long"
        await asyncio.sleep(0.01)


async def pass_when(event: threading.Event) -> None:
    """Where a commit is to stop: it blocks the journal's thread, and on the loop it is suspended."""
    if threading.current_thread().name == "journal":
        assert event.wait(30)
    else:
        await until(event.is_set)


@contextlib.contextmanager
def locked(ledger: Ledger) -> Iterator[None]:
    """Nobody else reads or writes SQLite's file meanwhile."""
    with contextlib.closing(sqlite3.connect(ledger.path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        yield
