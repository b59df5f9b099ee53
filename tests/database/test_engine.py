"""Opening, migrating and refusing databases."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from gateway.database.billing_tables import metadata
from gateway.database.engine import DatabaseError, open_database
from gateway.database.schema import HEAD, known_revisions
from gateway.errors import CreditsUnavailable

KEY = (
    "INSERT INTO keys (key_id, key_hash, start, user_id, balance, held, enabled, created_at)"
    " VALUES ('k', zeroblob(32), 's', 'u', {balance}, {held}, 1, 0)"
)


def test_migrations_make_exactly_the_tables_that_the_code_believes_in(tmp_path):
    open_database(f"sqlite:///{tmp_path}/migrated.db").close()
    engine = create_engine(f"sqlite:///{tmp_path}/declared.db")
    metadata.create_all(engine)
    engine.dispose()

    def shape(name):
        connection = sqlite3.connect(tmp_path / name)
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        connection.close()
        return {
            name: " ".join(sql.replace(",", " , ").replace(")", " ) ").split())
            for name, sql in rows
            if not name.startswith("alembic")
        }

    assert shape("migrated.db") == shape("declared.db")


def test_the_newest_revision_is_the_one_that_a_start_looks_for():
    assert known_revisions()[0] == HEAD


def test_the_directory_is_made(tmp_path):
    open_database(f"sqlite:///{tmp_path}/a/b/x.db").close()
    assert (tmp_path / "a/b/x.db").exists()


def test_processes_that_start_together_migrate_once(tmp_path):
    code = f"from gateway.database.engine import open_database; open_database('sqlite:///{tmp_path}/x.db').close()"
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr.decode()


def test_a_database_of_a_newer_gateway_is_refused(tmp_path):
    open_database(f"sqlite:///{tmp_path}/x.db").close()
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(DatabaseError, match="newer gateway"):
        open_database(f"sqlite:///{tmp_path}/x.db")


def test_a_database_of_the_first_version_keeps_its_keys_and_they_have_no_permissions(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/x.db")
    config = Config()
    config.set_main_option("script_location", "gateway:database/migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text(KEY.format(balance=5, held=2)))
    engine.dispose()
    open_database(f"sqlite:///{tmp_path}/x.db").close()
    connection = sqlite3.connect(tmp_path / "x.db")
    assert connection.execute("SELECT key_id, balance, held, permissions, capped FROM keys").fetchall() == [
        ("k", 5, 2, "", 0)
    ]
    connection.close()


def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path):
    (tmp_path / "x.db").write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(DatabaseError) as caught:
        open_database(f"sqlite:///{tmp_path}/x.db")
    assert "\n" not in str(caught.value)


def test_sql_holds_the_invariants_even_against_our_own_mistakes(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/x.db")

    async def main():
        for balance, held in [(5, 6), (5, -1), ("'5x'", 0), ("1e300", 0)]:
            with pytest.raises(CreditsUnavailable):
                await database.transaction(lambda c, b=balance, h=held: c.execute(text(KEY.format(balance=b, held=h))))
        await database.transaction(lambda c: c.execute(text(KEY.format(balance=5, held=5))))

    asyncio.run(main())
    database.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/x.db")

    def work(connection):
        connection.execute(text("INSERT INTO instances (beat, started_at) VALUES (1, 1)"))
        raise ValueError("after the write")

    async def main():
        with pytest.raises(ValueError, match="after the write"):
            await database.transaction(work)
        return await database.read(lambda c: c.execute(text("SELECT count(*) FROM instances")).scalar())

    assert asyncio.run(main()) == 0
    database.close()


def test_a_disk_that_hangs_does_not_keep_the_process_from_ending(tmp_path):
    code = f"""
import asyncio, threading
from gateway.database import engine, sqlite
sqlite.CLOSE_SECONDS = 0.2
async def main():
    database = engine.open_database("sqlite:///{tmp_path}/x.db")
    begun = threading.Event()
    hanging = asyncio.ensure_future(database.read(lambda _: begun.set() or threading.Event().wait()))
    await asyncio.to_thread(begun.wait)
    hanging.cancel()
    await database.aclose()
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, stderr.decode()
