"""What a batch writes, as statements for PostgreSQL: one for each table, whatever the number of rows."""

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
_NOTE = ("key", "drawn", "answered", "id")
_KEY = ("id", "balance", "held", "last_entry")
_PLACE = ("lookup", "hold")
_DONE = ("answer", "size", "expires_at", "lookup", "hold")
_CAP = ("day", "day_spent", "month", "month_spent", "key")


def add_changes(pipeline: Pipeline, table: HoldTable, changes: Changes) -> None:
    """All that `changes` has."""
    if changes.notes:
        _add_rows(pipeline, _note(table.name), _NOTE, changes.notes)
    if changes.holds:
        pipeline.add(_insert(table.name, table.columns), *arrays(table.columns, changes.holds))
    if changes.entries:
        pipeline.add(_APPEND, *arrays(ENTRY_COLUMNS, changes.entries))
    if changes.doubts:
        pipeline.add(_DOUBT, *arrays(DOUBT_COLUMNS, changes.doubts))
    if changes.windows:
        pipeline.add(_COUNT, *arrays(WINDOW_COLUMNS, changes.windows))
    if changes.claims is not None:
        _add_claims(pipeline, changes.claims)
    if changes.caps is not None:
        _add_rows(pipeline, _SPEND, _CAP, changes.caps.rows())
    if changes.keys:
        rows = [(key[ID], key[BALANCE], key[HELD], key[LAST_ENTRY]) for key in changes.keys.values()]
        _add_rows(pipeline, _CHANGE_KEYS, _KEY, rows)


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


_APPEND = (
    f"INSERT INTO entries ({', '.join(ENTRY_COLUMNS)}, kind) SELECT {', '.join(ENTRY_COLUMNS)}, 'spend'"
    f" FROM {unnest(ENTRY_COLUMNS)}"
)
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
_CHANGE_KEYS = (
    "UPDATE keys k SET balance = t.balance, held = t.held, last_entry = t.last_entry"
    f" FROM {unnest(_KEY)} WHERE k.id = t.id"
)
