"""INSERT … ON CONFLICT DO NOTHING, which every database spells alike and SQLAlchemy keeps in its dialects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table, func, select, text
from sqlalchemy.dialects import postgresql, sqlite

from gateway.database.tables import entries, entry_ids


def insert_once(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Write the row, unless one with the same unique values is there. True if it was written."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    once = insert(table).values(**row).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    return connection.execute(once).rowcount == 1


def next_entry_id(connection: Connection) -> int:
    """The number of the ledger's next entry. Take it with the key's row locked: a key's entries are in their order."""
    if connection.dialect.name == "postgresql":
        return int(connection.execute(select(entry_ids.next_value())).scalar_one())
    return int(connection.execute(select(func.coalesce(func.max(entries.c.id), 0))).scalar_one()) + 1


def read_fence(connection: Connection) -> tuple[int, int]:
    """The ledger's last number, and by when all entries up to it are there: when `has_passed` says so of the second.

    PostgreSQL gives numbers out before their transactions commit. Who has one has a transaction id too, below
    the fence.
    """
    if connection.dialect.name != "postgresql":
        return int(connection.execute(select(func.coalesce(func.max(entries.c.id), 0))).scalar_one()), 0
    last = connection.execute(text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM entry_ids")).scalar_one()
    fence = connection.execute(text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")).scalar_one()
    return int(last), int(fence)


def has_passed(connection: Connection, fence: int) -> bool:
    """Whether every transaction that was under way at the fence has come to its end."""
    if connection.dialect.name != "postgresql":
        return True
    oldest = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    return int(connection.execute(oldest).scalar_one()) >= fence
