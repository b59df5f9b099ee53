"""A provider on a fresh database, and the audit that every test may call: the invariants, from the tables alone."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.credits.local import LocalProvider, Settings
from gateway.database.engine import open_database
from gateway.deadlines import Deadlines
from tests.database.template import prepare_database


class Ledger:
    """Opens providers on one database file, as so many processes would, and audits the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        prepare_database(path)

    @contextlib.asynccontextmanager
    async def provider(self, **settings: Any) -> AsyncIterator[LocalProvider]:
        database = open_database(f"sqlite:///{self.path}")
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
        connection = sqlite3.connect(self.path)
        try:
            wrong = connection.execute(
                """SELECT k.key_id, k.balance, k.held, e.total, coalesce(h.total, 0) FROM keys k
                   LEFT JOIN (SELECT key, sum(amount) AS total FROM entries GROUP BY key) e ON e.key = k.id
                   LEFT JOIN (SELECT key, sum(cost) AS total FROM holds GROUP BY key) h ON h.key = k.id
                   WHERE k.held != coalesce(h.total, 0)
                      OR (k.balance IS NOT NULL AND k.balance != coalesce(e.total, 0))
                      OR k.balance < k.held"""
            ).fetchall()
            assert wrong == [], f"key, balance, held, entries, holds: {wrong}"
            doubled = connection.execute(
                "SELECT request_id, count(*) FROM entries WHERE request_id IS NOT NULL GROUP BY 1 HAVING count(*) > 1"
            ).fetchall()
            assert doubled == [], f"holds that ended twice: {doubled}"
        finally:
            connection.close()

    def open_holds(self) -> int:
        return self.count("holds")

    def count(self, table: str) -> int:
        connection = sqlite3.connect(self.path)
        try:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        finally:
            connection.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "gateway.db")


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
