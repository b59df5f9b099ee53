"""Numbers that the database gives by itself: read where they come from, and set behind what was taken there.

A number that was given is never given again, also if its row is gone: a hold says by its id which instance it is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, Table, func, select, text

from gateway.database.moving.tables import numbered_tables
from gateway.database.tables import HOLDS_PER_INSTANCE, entries, entry_ids, holds, instances, unkey_holds


def read_numbers(connection: Connection) -> dict[str, int]:
    """The highest number that each table has given."""
    given = _read_sqlite(connection) if connection.dialect.name == "sqlite" else _read_postgres(connection)
    found = {table.name: max(given.get(table.name, 0), _highest(connection, table)) for table in _tables()}
    owners = [
        connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one() // HOLDS_PER_INSTANCE
        for table in (holds, unkey_holds)
    ]
    found[instances.name] = max(found[instances.name], *owners)
    return found


def set_numbers(connection: Connection, numbers: Mapping[str, int]) -> None:
    """Go on behind these, and behind whatever is in the tables."""
    for table in _tables():
        number = max(numbers.get(table.name, 0), _highest(connection, table))
        if not number:
            continue
        if connection.dialect.name == "sqlite":
            _set_sqlite(connection, table, number)
        else:
            values = {"sequence": _sequence(connection, table), "number": number}
            connection.execute(text("SELECT setval(CAST(:sequence AS regclass), :number)"), values)


def _tables() -> Iterator[Table]:
    yield from numbered_tables()
    yield entries


def _highest(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one())


def _read_sqlite(connection: Connection) -> dict[str, int]:
    return {name: int(number) for name, number in connection.execute(text("SELECT name, seq FROM sqlite_sequence"))}


def _set_sqlite(connection: Connection, table: Table, number: int) -> None:
    # Tables without AUTOINCREMENT count on from their highest row.
    if table.dialect_options["sqlite"]["autoincrement"]:
        values = {"name": table.name, "number": number}
        if not connection.execute(text("UPDATE sqlite_sequence SET seq = :number WHERE name = :name"), values).rowcount:
            connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :number)"), values)


def _read_postgres(connection: Connection) -> dict[str, int]:
    query = text("SELECT pg_sequence_last_value(CAST(:sequence AS regclass))")
    return {
        table.name: int(connection.execute(query, {"sequence": _sequence(connection, table)}).scalar() or 0)
        for table in _tables()
    }


def _sequence(connection: Connection, table: Table) -> str:
    """What numbers its rows, on PostgreSQL."""
    if table is entries:
        return entry_ids.name
    query = text("SELECT pg_get_serial_sequence(:table, 'id')")
    return str(connection.execute(query, {"table": table.name}).scalar_one())
