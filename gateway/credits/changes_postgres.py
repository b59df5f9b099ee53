"""What a batch writes, as statements for PostgreSQL: one for each table, whatever the number of rows."""

from __future__ import annotations

from functools import cache
from typing import Any

from gateway.credits.cap_counts import CapCounts
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

_COUNT_ON = (
    " ON CONFLICT (key, name, window_ms) DO UPDATE"
    " SET start = excluded.start, count = excluded.count, previous = excluded.previous"
)
_PLACE = ("lookup", "hold")
_CLAIM = (
    " ON CONFLICT (lookup) DO UPDATE SET fingerprint = excluded.fingerprint, hold = excluded.hold,"
    " expires_at = excluded.expires_at, done = 0, size = 0, answer = NULL"
)


def add_changes(pipeline: Pipeline, table: HoldTable, changes: Changes) -> None:
    """All that `changes` has."""
    if changes.notes:
        names = ("key", "drawn", "answered", "id")
        pipeline.add(
            f"UPDATE {table.name} h SET key = t.key, drawn = t.drawn, asked = 0, answered = t.answered"
            f" FROM {unnest(names)} WHERE h.id = t.id",
            *arrays(names, [value for note in changes.notes for value in note]),
        )
    if changes.holds:
        _add_insert(pipeline, table.name, table.columns, changes.holds)
    if changes.entries:
        _add_insert(pipeline, "entries", ENTRY_COLUMNS, changes.entries, kind="spend")
    if changes.doubts:
        _add_insert(pipeline, "doubts", DOUBT_COLUMNS, changes.doubts)
    if changes.windows:
        _add_insert(pipeline, "rate_windows", WINDOW_COLUMNS, changes.windows, conflict=_COUNT_ON)
    if changes.claims is not None:
        _add_claims(pipeline, changes.claims)
    if changes.caps is not None:
        _add_caps(pipeline, changes.caps)
    if changes.keys:
        names = ("id", "balance", "held", "last_entry")
        rows = [(key[ID], key[BALANCE], key[HELD], key[LAST_ENTRY]) for key in changes.keys.values()]
        pipeline.add(
            "UPDATE keys k SET balance = t.balance, held = t.held, last_entry = t.last_entry"
            f" FROM {unnest(names)} WHERE k.id = t.id",
            *arrays(names, [value for row in rows for value in row]),
        )


def _add_claims(pipeline: Pipeline, claims: Claims) -> None:
    if claims.void:
        pipeline.add(
            f"DELETE FROM answers a USING {unnest(_PLACE)} WHERE a.lookup = t.lookup AND a.hold = t.hold",
            *arrays(_PLACE, [value for row in claims.void for value in row]),
        )
    if claims.records:
        _add_insert(pipeline, "answers", CLAIMED, claims.records, conflict=_CLAIM)
    if claims.done:
        names = ("answer", "size", "expires_at", "lookup", "hold")
        pipeline.add(
            "UPDATE answers a SET done = 1, answer = t.answer, size = t.size, expires_at = t.expires_at"
            f" FROM {unnest(names)} WHERE a.lookup = t.lookup AND a.hold = t.hold",
            *arrays(names, [value for row in claims.done for value in row]),
        )


def _add_caps(pipeline: Pipeline, caps: CapCounts) -> None:
    names = ("day", "day_spent", "month", "month_spent", "key")
    pipeline.add(
        "UPDATE spend_caps c SET day = t.day, day_spent = t.day_spent, month = t.month, month_spent = t.month_spent"
        f" FROM {unnest(names)} WHERE c.key = t.key",
        *arrays(names, [value for row in caps.rows() for value in row]),
    )


def _add_insert(
    pipeline: Pipeline,
    table: str,
    columns: tuple[str, ...],
    values: list[Any],
    *,
    conflict: str = "",
    kind: str = "",
) -> None:
    statement = _insert(table, columns, conflict, kind)
    pipeline.add(statement, *arrays(columns, values))


@cache
def _insert(table: str, columns: tuple[str, ...], conflict: str, kind: str) -> str:
    names = ", ".join(columns)
    more, constant = (", kind", f", '{kind}'") if kind else ("", "")
    return f"INSERT INTO {table} ({names}{more}) SELECT {names}{constant} FROM {unnest(columns)}{conflict}"
