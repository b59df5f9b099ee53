"""What is moved: every table but the instances, in one order, and the numbers that must never be given twice.

Instances are processes beside the old database. Without them every open hold is an orphan, which the first gateway at
the destination ends as it ends those of any dead process: nobody has to wait for a moment without holds.
"""

from __future__ import annotations

from sqlalchemy import Column, LargeBinary, Table

from gateway.database import billing_tables
from gateway.database.tables import instances, metadata

assert billing_tables.orders.metadata is metadata  # they are among them once they are imported

NOT_MOVED = frozenset({instances.name})

TABLES: tuple[Table, ...] = tuple(table for table in metadata.sorted_tables if table.name not in NOT_MOVED)


def numbered_tables() -> tuple[Table, ...]:
    """Tables whose rows the database numbers by itself."""
    return tuple(table for table in metadata.sorted_tables if table.autoincrement_column is not None)


def columns_of(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns)


def binary_places(table: Table) -> tuple[int, ...]:
    """Where in a row bytes are."""
    return tuple(place for place, column in enumerate(table.columns) if is_binary(column))


def is_binary(column: Column[object]) -> bool:
    return isinstance(column.type, LargeBinary)
