"""From SQLite to PostgreSQL and back: the same books, to the byte, and each goes on numbering where the other was."""

from __future__ import annotations

import asyncio
import os
import random
import re

import psycopg
import pytest

from gateway.credits.ledger import grant
from gateway.database.engine import DatabaseError, open_database
from gateway.database.moving.bookmark import refuse_unfinished
from gateway.database.moving.failure import MovingFailed
from gateway.database.tables import HOLDS_PER_INSTANCE
from tests.database.moving.books import (
    DEAD_INSTANCE,
    body,
    config_of,
    export_to,
    fill,
    finish,
    gateway,
    import_from,
    read,
    url_of,
    wait_for,
)
from tests.database.postgres import rows

TORTURE = bool(os.environ.get("TORTURE"))
KILLS = 10 if TORTURE else 2
ENTRIES = 1_000_000 if TORTURE else 30_000
KEYS = 20_000 if TORTURE else 500


def test_there_and_back_is_the_same_to_the_byte_though_the_import_is_killed(postgres, tmp_path):
    """kill -9 at random moments on the way there; 1 M entries with TORTURE=1."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    here, there, back = url_of(tmp_path / "here.db"), postgres.create(), url_of(tmp_path / "back.db")
    file = tmp_path / "export.jsonl"
    asyncio.run(fill(here, keys=KEYS, entries=ENTRIES, seed=seed))
    export_to(here, file)
    config = config_of(tmp_path, there)
    progress = [0]
    for _ in range(KILLS):
        goal = progress[-1] + choice.randrange(1, (ENTRIES + KEYS - progress[-1]) // 2)
        process = gateway("import", file, "-c", config)
        wait_for(lambda goal=goal, process=process: imported(there) >= goal or process.poll() is not None)
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        progress.append(imported(there))
        assert progress[-1] >= progress[-2], "went back"
    assert any(progress), "never killed in the middle"
    with pytest.raises(DatabaseError, match="not finished"):
        read(there, refuse_unfinished)
    code, said = finish(gateway("import", file, "-c", config))
    assert code == 0, said
    export_to(there, tmp_path / "there.jsonl")
    assert body(tmp_path / "there.jsonl") == body(file)
    import_from(tmp_path / "there.jsonl", back)
    export_to(back, tmp_path / "back.jsonl")
    assert body(tmp_path / "back.jsonl") == body(file)


def imported(url: str) -> int:
    counts = rows(url, "SELECT position FROM leases WHERE name = 'import'")
    return counts[0][0] if counts else 0


@pytest.fixture
def moved(postgres, tmp_path) -> str:
    """Books that came to PostgreSQL."""
    here, there, file = url_of(tmp_path / "few.db"), postgres.create(), tmp_path / "few.jsonl"
    asyncio.run(fill(here, keys=20, entries=500))
    export_to(here, file)
    import_from(file, there)
    return there


def test_the_ledger_and_the_instances_go_on_behind_what_came(moved):
    async def main():
        database = open_database(moved)
        try:
            return await database.transaction(
                lambda connection: grant(connection, f"key_{1:020x}", 5, "promo", "test", "reference:1")
            )
        finally:
            await database.aclose()

    assert asyncio.run(main()).id == 501
    with psycopg.connect(moved) as connection:
        for table, last in (("instances", DEAD_INSTANCE), ("doubts", 4), ("grants", 6), ("keys", 20)):
            query = f"SELECT nextval(pg_get_serial_sequence('{table}', 'id'))"
            assert connection.execute(query).fetchone() == (last + 1,), table
        assert connection.execute("SELECT max(id) / %s FROM holds", [HOLDS_PER_INSTANCE]).fetchone() == (DEAD_INSTANCE,)


def test_a_database_that_is_not_empty_is_refused(moved, tmp_path):
    with pytest.raises(MovingFailed, match="the database is not empty"):
        import_from(tmp_path / "few.jsonl", moved)


def test_text_that_postgresql_can_not_hold_is_told_and_nothing_is_served(postgres, tmp_path):
    here, there, file = url_of(tmp_path / "odd.db"), postgres.create(), tmp_path / "odd.jsonl"
    asyncio.run(fill(here, keys=3, entries=10))
    rows(here, "UPDATE keys SET name = 'a' || char(0) || 'b' WHERE id = 2")
    export_to(here, file)
    with pytest.raises(MovingFailed, match=re.compile(r"\(keys\) can't be written: .*NUL")):
        import_from(file, there)
    with pytest.raises(DatabaseError, match="not finished"):
        read(there, refuse_unfinished)
