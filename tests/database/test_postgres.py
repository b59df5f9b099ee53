"""Opening and migrating PostgreSQL, and what its transactions promise."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from sqlalchemy import create_engine, inspect, text

from gateway.database.billing_tables import metadata
from gateway.database.engine import DatabaseError, open_database
from gateway.database.schema import HEAD
from gateway.errors import CreditsUnavailable
from tests.database.postgres import rows

REGISTER = text("INSERT INTO instances (beat, started_at) VALUES (1, 1)")


def test_a_transaction_that_fails_leaves_nothing_on_whichever_connection(postgres):
    url = postgres.create()
    database = open_database(url)

    def work(connection):
        connection.execute(REGISTER)
        raise LookupError

    async def main():
        for _ in range(3):
            outcomes = await asyncio.gather(*(database.transaction(work) for _ in range(8)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [LookupError] * 8
            await asyncio.gather(*(database.read(lambda c: c.execute(text("SELECT 1"))) for _ in range(8)))

    asyncio.run(main())
    database.close()
    assert rows(url, "SELECT count(*) FROM instances") == [(0,)]


def test_a_read_sees_one_moment_and_can_not_write(postgres):
    database = open_database(postgres.create())

    def twice(connection):
        def count():
            return connection.execute(text("SELECT count(*) FROM instances")).scalar()

        before = count()
        asyncio.run(database.transaction(lambda other: other.execute(REGISTER)))
        return before, count()

    async def main():
        assert await database.read(twice) == (0, 0)
        with pytest.raises(CreditsUnavailable):
            await database.read(lambda connection: connection.execute(REGISTER))

    asyncio.run(main())
    database.close()


def test_two_who_find_no_row_and_insert_the_same_are_made_one_after_the_other(postgres):
    url = postgres.create()
    one, two = open_database(url), open_database(url)

    def work(connection):
        if connection.execute(text("SELECT 1 FROM leases WHERE name = 'x'")).first() is not None:
            return "found"
        connection.execute(text("SELECT pg_sleep(0.1)"))
        connection.execute(text("INSERT INTO leases VALUES ('x', '', 0, 0, 0)"))
        return "made"

    async def main():
        assert sorted(await asyncio.gather(one.transaction(work), two.transaction(work))) == ["found", "made"]

    asyncio.run(main())
    one.close()
    two.close()


def test_a_schema_that_is_missing_older_or_newer_is_refused_and_told(postgres):
    empty = postgres.create(template="template0")
    with pytest.raises(DatabaseError, match="no tables yet: run `gateway migrate`"):
        open_database(empty)
    url = postgres.create()
    rows(url, "UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(DatabaseError, match=r"older.*gateway migrate"):
        open_database(url)
    rows(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseError, match="newer gateway"):
        open_database(url)


def test_several_that_migrate_at_once_do_it_once(postgres):
    url = postgres.create(template="template0")
    code = f"from gateway.database.postgres import migrate_postgres; print(migrate_postgres({url!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    said = sorted(process.communicate(timeout=100)[0].decode().strip() for process in processes)
    assert said == sorted(["None", HEAD])
    open_database(url).close()


def test_migrations_make_the_tables_and_indexes_that_the_code_believes_in(postgres):
    declared = postgres.create(template="template0")

    def shape(url):
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        if url == declared:
            metadata.create_all(engine)
        found = inspect(engine)
        tables = {
            table: (
                [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)],
                sorted(str(sorted(index.items(), key=str)) for index in found.get_indexes(table)),
                sorted(check["name"] for check in found.get_check_constraints(table)),
            )
            for table in found.get_table_names()
            if table != "alembic_version"
        }
        sequences = sorted(found.get_sequence_names())
        engine.dispose()
        return tables, sequences

    assert shape(postgres.create()) == shape(declared)


def test_the_ledger_is_vacuumed_while_its_newest_pages_are_in_memory_and_then_never_again(postgres):
    """However long it is. Until then, who reads an entry first also writes its page."""
    ((options,),) = rows(postgres.create(), "SELECT reloptions FROM pg_class WHERE relname = 'entries'")
    told = dict(option.split("=") for option in options)
    assert told["autovacuum_vacuum_insert_scale_factor"] == "0"
    assert told["autovacuum_freeze_min_age"] == "0"
    entries_in_memory = 128 * 1024 * 1024 // 165  # of PostgreSQL's default `shared_buffers`
    assert int(told["autovacuum_vacuum_insert_threshold"]) < entries_in_memory / 4


@pytest.mark.parametrize("url", ["postgresql://u:hunter2@127.0.0.1:1/x", "postgresql://u:hunter2@127.0.0.1/x?what=1"])
def test_a_database_that_can_not_be_opened_is_told_without_the_password(url):
    with pytest.raises(DatabaseError) as caught:
        open_database(url)
    assert "hunter2" not in str(caught.value)
