"""What is done with and old is deleted, in small steps; what is still to be done stays."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

from gateway.billing.retention import DAY_MS, ROWS_AT_ONCE, Retention
from gateway.credits.ledger import now_ms
from gateway.database.engine import open_database
from tests.database.moving.books import write
from tests.database.template import prepare_database

OLD_DAYS, YOUNG_DAYS, KEEP_DAYS = 31, 29, 30
MANY = 2 * ROWS_AT_ONCE + 7


def test_what_is_settled_goes_after_its_time_and_everything_else_stays(tmp_path):
    path = tmp_path / "gateway.db"
    prepare_database(path)
    old, young = (now_ms() - days * DAY_MS for days in (OLD_DAYS, YOUNG_DAYS))
    events = [
        (f"evt_{state}_{at}_{n}", "t", "cs_1", b"{}", state, 1, 1, None, None, 1, at)
        for state in ("new", "done", "ignored", "dead")
        for at in (old, young)
        for n in range(MANY if (state, at) == ("done", old) else 1)
    ]
    notifications = [
        (f"msg_{state}_{at}", "t", "{}", state, 1, 1, None, at)
        for state in ("new", "done", "dead")
        for at in (old, young)
    ]
    sizes: list[int] = []

    async def main():
        database = open_database(f"sqlite:///{path}")
        await database.transaction(lambda connection: write(connection, "stripe_events", events))
        await database.transaction(lambda connection: write(connection, "notifications", notifications))
        await Retention(Counted(database, sizes, path), KEEP_DAYS).work()
        await database.aclose()

    asyncio.run(main())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        left = [name for (name,) in connection.execute("SELECT id FROM stripe_events")]
        assert sorted(left) == sorted(row[0] for row in events if not is_gone(row[0], old, ("done", "ignored")))
        left = [name for (name,) in connection.execute("SELECT id FROM notifications")]
        assert sorted(left) == sorted(row[0] for row in notifications if not is_gone(row[0], old, ("done", "dead")))
    assert max(sizes) == ROWS_AT_ONCE, "one transaction deleted them all"


def is_gone(id: str, old: int, settled: tuple[str, ...]) -> bool:
    _, state, at, *_ = id.split("_")
    return at == str(old) and state in settled


class Counted:
    """A database that notes how many rows each transaction deletes."""

    def __init__(self, database, sizes, path) -> None:
        self._database, self._sizes, self._path = database, sizes, path

    async def transaction(self, work):
        before = self._count()
        result = await self._database.transaction(work)
        self._sizes.append(before - self._count())
        return result

    def _count(self) -> int:
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            return connection.execute("SELECT count(*) FROM stripe_events").fetchone()[0]


def test_one_process_an_hour_does_it(tmp_path):
    path = tmp_path / "gateway.db"
    prepare_database(path)

    async def main():
        database = open_database(f"sqlite:///{path}")
        await Retention(database, KEEP_DAYS).work()
        event = ("evt_1", "t", "cs_1", b"{}", "done", 1, 1, None, None, 1, 1)
        await database.transaction(lambda connection: write(connection, "stripe_events", [event]))
        await Retention(database, KEEP_DAYS).work()
        await database.aclose()

    asyncio.run(main())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM stripe_events").fetchone() == (1,)
        assert connection.execute("SELECT until FROM leases WHERE name = 'retention'").fetchone() == (0,)
