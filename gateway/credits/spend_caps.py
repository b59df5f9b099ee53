"""The rows of spend caps in SQL: those of a new key, and what is shown of them. What calls count for them is
cap_counts.py's, and how a key with a history gets one capping.py's.

Each function is one transaction's work on a SQLAlchemy connection; who writes has the key locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from gateway.credits.cap_counts import COLUMNS, CapCount
from gateway.credits.provider import NO_CAPS, CapChanges, SpendCaps
from gateway.database.tables import keys
from gateway.database.tables import spend_caps as table

KEYS: Select[Any] = select(keys, *(table.c[name].label(f"cap_{name}") for name in COLUMNS)).outerjoin_from(
    keys, table, table.c.key == keys.c.id
)
"""Keys, each with its row here: both in one statement."""


def of_row(row: Row[Any], now: int) -> SpendCaps:
    """The caps in a row of KEYS."""
    if row.cap_key is None:
        return NO_CAPS
    count = CapCount(*row[-len(COLUMNS) :])
    count.move_to(now)
    return count.shown()


def read(connection: Connection, rows: Iterable[Row[Any]], now: int) -> Mapping[int, SpendCaps]:
    """The caps of those of these keys that have any, by the keys' numbers."""
    capped = [row.id for row in rows if row.capped]
    return {count.key: count.shown() for count in read_counts(connection, capped, now)} if capped else {}


def read_one(connection: Connection, row: Row[Any], now: int) -> SpendCaps:
    return read(connection, [row], now).get(row.id, NO_CAPS)


def read_counts(connection: Connection, numbers: Sequence[int], now: int) -> list[CapCount]:
    """By the keys' numbers, as they stand now."""
    columns = (table.c[name] for name in COLUMNS)
    counts = [CapCount(*row) for row in connection.execute(select(*columns).where(table.c.key.in_(numbers)))]
    for count in counts:
        count.move_to(now)
    return counts


def begin(connection: Connection, number: int, changes: CapChanges, now: int) -> None:
    """Give a key that has spent nothing its caps."""
    count = CapCount(number, None, None)
    count.move_to(now)
    insert_count(connection, count, changes)


def insert_count(connection: Connection, count: CapCount, changes: CapChanges) -> None:
    """The caps of a key that had none, with what it has spent."""
    if _apply(count, changes):
        connection.execute(insert(table).values(_values(count)))
        connection.execute(update(keys).where(keys.c.id == count.key).values(capped=1))


def update_count(connection: Connection, count: CapCount, changes: CapChanges) -> None:
    """Of a key that has caps. Without any left there is no row, and nothing is counted."""
    if _apply(count, changes):
        connection.execute(update(table).where(table.c.key == count.key).values(_values(count)))
    else:
        connection.execute(delete(table).where(table.c.key == count.key))
        connection.execute(update(keys).where(keys.c.id == count.key).values(capped=0))


def _apply(count: CapCount, changes: CapChanges) -> bool:
    """Whether any cap is left."""
    count.day_cap = changes.get("day", count.day_cap)
    count.month_cap = changes.get("month", count.month_cap)
    return count.day_cap is not None or count.month_cap is not None


def _values(count: CapCount) -> dict[str, int | None]:
    return {name: getattr(count, name) for name in COLUMNS}
