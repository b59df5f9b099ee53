"""INSERT … ON CONFLICT DO NOTHING, which every database spells alike and SQLAlchemy keeps in its dialects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_once(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Write the row, unless one with the same unique values is there. True if it was written."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return bool(connection.execute(insert(table).values(**row).on_conflict_do_nothing()).rowcount)
