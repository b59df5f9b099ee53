"""What a batch writes, as statements for PostgreSQL: one for each table, whatever the number of rows.

Entries come with stand-ins for their numbers: -1, -2, …
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from gateway.credits.claims import CLAIMED, Claims
from gateway.credits.store import (
    BALANCE,
    DOUBT_COLUMNS,
    ENTRY_COLUMNS,
    HELD,
    ID,
    LAST_ENTRY,
    WINDOW_COLUMNS,
    Changes,
    HoldTable,
)
from gateway.database.pipeline import Pipeline
from gateway.database.postgres_arrays import arrays, unnest

IS_ONE = "id = ANY($1::bigint[])"
VERSION_COLUMN = "{}.xmin::text::bigint"
_NOTE = ("key", "drawn", "answered", "id")
_KEY = ("id", "balance", "held", "last_entry")
_PLACE = ("lookup", "hold")
_DONE = ("answer", "size", "expires_at", "lookup", "hold")
_CAP = ("day", "day_spent", "month", "month_spent", "key")


def add_changes(pipeline: Pipeline, table: HoldTable, changes: Changes) -> int | None:
    """All that `changes` has. Where there will be, if keys change: each one's number, last entry, and row's version."""
    if changes.notes:
        _add_rows(pipeline, _note(table.name), _NOTE, changes.notes)
    if changes.holds:
        pipeline.add(_insert(table.name, table.columns), *arrays(table.columns, changes.holds))
    if changes.doubts:
        pipeline.add(_DOUBT, *arrays(DOUBT_COLUMNS, changes.doubts))
    if changes.windows:
        pipeline.add(_COUNT, *arrays(WINDOW_COLUMNS, changes.windows))
    if changes.claims is not None:
        _add_claims(pipeline, changes.claims)
    if changes.caps is not None:
        _add_rows(pipeline, _SPEND, _CAP, changes.caps.rows())
    return _add_keys(pipeline, changes)


def _add_keys(pipeline: Pipeline, changes: Changes) -> int | None:
    """With the entries: each is one of a key that changes."""
    if not changes.keys:
        return None
    rows = [value for key in changes.keys.values() for value in (key[ID], key[BALANCE], key[HELD], key[LAST_ENTRY])]
    values = arrays(_KEY, rows)
    if not changes.entries:
        return pipeline.add(_CHANGE_KEYS, *values)
    count = len(changes.entries) // len(ENTRY_COLUMNS)
    return pipeline.add(_APPEND, *values, *arrays(ENTRY_COLUMNS, changes.entries), str(count))


def _add_claims(pipeline: Pipeline, claims: Claims) -> None:
    if claims.void:
        _add_rows(pipeline, _FORGET, _PLACE, claims.void)
    if claims.records:
        pipeline.add(_CLAIM, *arrays(CLAIMED, claims.records))
    if claims.done:
        _add_rows(pipeline, _KEEP, _DONE, claims.done)


def _add_rows(pipeline: Pipeline, statement: str, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    pipeline.add(statement, *arrays(columns, [value for row in rows for value in row]))


@cache
def _note(table: str) -> str:
    return (
        f"UPDATE {table} h SET key = t.key, drawn = t.drawn, asked = 0, answered = t.answered"
        f" FROM {unnest(_NOTE)} WHERE h.id = t.id"
    )


@cache
def _insert(table: str, columns: tuple[str, ...]) -> str:
    names = ", ".join(columns)
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM {unnest(columns)}"


_DOUBT = _insert("doubts", DOUBT_COLUMNS)
_COUNT = (
    f"{_insert('rate_windows', WINDOW_COLUMNS)} ON CONFLICT (key, name, window_ms) DO UPDATE"
    " SET start = excluded.start, count = excluded.count, previous = excluded.previous"
)
_FORGET = f"DELETE FROM answers a USING {unnest(_PLACE)} WHERE a.lookup = t.lookup AND a.hold = t.hold"
_CLAIM = (
    f"{_insert('answers', CLAIMED)} ON CONFLICT (lookup) DO UPDATE SET fingerprint = excluded.fingerprint,"
    " hold = excluded.hold, expires_at = excluded.expires_at, done = 0, size = 0, answer = NULL"
)
_KEEP = (
    "UPDATE answers a SET done = 1, answer = t.answer, size = t.size, expires_at = t.expires_at"
    f" FROM {unnest(_DONE)} WHERE a.lookup = t.lookup AND a.hold = t.hold"
)
_SPEND = (
    "UPDATE spend_caps c SET day = t.day, day_spent = t.day_spent, month = t.month, month_spent = t.month_spent"
    f" FROM {unnest(_CAP)} WHERE c.key = t.key"
)
_CHANGED = f"RETURNING k.id, k.last_entry, {VERSION_COLUMN.format('k')}"
_CHANGE_KEYS = (
    "UPDATE keys k SET balance = t.balance, held = t.held, last_entry = t.last_entry"
    f" FROM {unnest(_KEY)} WHERE k.id = t.id {_CHANGED}"
)


def _numbered(column: str) -> str:
    """The entry's number where the column has a stand-in for it."""
    return f"CASE WHEN t.{column} < 0 THEN n.ids[-t.{column}] ELSE t.{column} END"


def _append() -> str:
    """Entries and their keys at once, for both need the numbers. They are taken behind the lock on the keys: a key's
    entries are in their order."""
    is_number = ("id", "previous")
    values = ", ".join(_numbered(name) if name in is_number else f"t.{name}" for name in ENTRY_COLUMNS)
    return (
        f"WITH n AS (SELECT array_agg(nextval('entry_ids')) AS ids"
        f" FROM generate_series(1, ${len(_KEY) + len(ENTRY_COLUMNS) + 1}::bigint)),"
        f" e AS (INSERT INTO entries ({', '.join(ENTRY_COLUMNS)}, kind) SELECT {values}, 'spend'"
        f" FROM n, {unnest(ENTRY_COLUMNS, len(_KEY) + 1)})"
        f" UPDATE keys k SET balance = t.balance, held = t.held, last_entry = {_numbered('last_entry')}"
        f" FROM n, {unnest(_KEY)} WHERE k.id = t.id {_CHANGED}"
    )


_APPEND = _append()
