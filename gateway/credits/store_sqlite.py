"""The journal's transactions in SQLite: `BEGIN IMMEDIATE`, so that whoever writes has the database to himself.

Every statement handles the whole batch in one step, for a step through the driver costs more than a row. What is
deleted is looked at first, not given by RETURNING: nobody else can come between, and SQLite would fill two temporary
tables, which cost more than a second statement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from gateway.credits import cap_counts
from gateway.credits.claims import CLAIMED, RECORD, Claims
from gateway.credits.statements import by_count, marks, rows
from gateway.credits.store import (
    DOUBT_COLUMNS,
    ENTRY_COLUMNS,
    HASH,
    ID,
    KEY_COLUMNS,
    Changes,
    Found,
    HoldTable,
    Key,
    Place,
    Wanted,
)
from gateway.database.sqlite import SqliteDatabase, connect_sqlite

NUMBERS_MAX = 100_000
"""Keys whose row number is remembered. It only says where to look: the row found there must have the right hash."""
NEWEST = 12
"""Behind a key's columns: the ledger's last number."""


class SqliteStore:
    """Implements Store. Nothing here ever suspends."""

    def __init__(self, database: SqliteDatabase, table: HoldTable) -> None:
        self._connection = connect_sqlite(database.path, synchronous="NORMAL")
        self._execute = self._connection.execute
        self._files = database.files
        self._table = table
        self._numbers: dict[bytes, int] = {}

    def begin(self, instance: int, *, is_read_only: bool) -> None:  # noqa: ARG002
        self._execute("BEGIN" if is_read_only else "BEGIN IMMEDIATE")
        self._files.check()

    async def read(self, wanted: Wanted) -> Found:
        found, table = Found(), self._table
        if wanted.strays:
            found.keys_of_strays = dict(self._rows("SELECT id, key FROM {} WHERE id IN ({})", table, wanted.strays))
            wanted.numbers.update(found.keys_of_strays.values())
            wanted.numbers.discard(0)
        keys = found.keys = self._load_keys(wanted)
        if wanted.answered:
            found.answered = self._rows("SELECT id FROM {} WHERE id IN ({})", table, wanted.answered)
            self._rows("UPDATE {} SET answered = 1 WHERE id IN ({})", table, wanted.answered)
        if wanted.looked_at:
            select = f"SELECT {', '.join(table.found)} FROM {{}} WHERE id IN ({{}})"
            found.looked_at = self._rows(select, table, wanted.looked_at)
        if wanted.ended:
            select = f"SELECT {', '.join(table.ended)} FROM {{}} WHERE id IN ({{}})"
            found.ended = self._rows(select, table, wanted.ended)
            self._rows("DELETE FROM {} WHERE id IN ({})", table, wanted.ended)
        if wanted.lookups:
            found.records = self._execute(_sql_records(table.name, len(wanted.lookups)), wanted.lookups).fetchall()
        for key in keys.values():
            found.entry_ids = count((key[NEWEST] or 0) + 1)
            break
        return found

    async def read_windows(self, places: Sequence[Place]) -> Sequence[Sequence[Any]]:
        return self._execute(_sql_windows(len(places)), [value for place in places for value in place]).fetchall()

    async def read_caps(self, keys: Sequence[int]) -> Sequence[Sequence[Any]]:
        return self._execute(_sql_caps(len(keys)), keys).fetchall()

    def write(self, changes: Changes) -> None:
        table = self._table
        if changes.notes:
            self._connection.executemany(
                f"UPDATE {table.name} SET key = ?, drawn = ?, asked = 0, answered = ? WHERE id = ?", changes.notes
            )
        if changes.holds:
            self._insert(table.name, table.columns, changes.holds)
        if changes.entries:
            self._execute(_sql_append(len(changes.entries) // len(ENTRY_COLUMNS)), changes.entries)
        if changes.doubts:
            self._insert("doubts", DOUBT_COLUMNS, changes.doubts)
        if changes.windows:
            self._execute(_sql_write_windows(len(changes.windows) // 6), changes.windows)
        if changes.claims is not None:
            self._write_claims(changes.claims)
        if changes.caps is not None:
            self._connection.executemany(
                "UPDATE spend_caps SET day = ?, day_spent = ?, month = ?, month_spent = ? WHERE key = ?",
                changes.caps.rows(),
            )
        if changes.keys:
            self._connection.executemany(
                "UPDATE keys SET balance = ?, held = ?, last_entry = ? WHERE id = ?",
                [(key[3], key[4], key[8], key[ID]) for key in changes.keys.values()],
            )

    def _write_claims(self, claims: Claims) -> None:
        if claims.void:
            self._connection.executemany("DELETE FROM answers WHERE lookup = ? AND hold = ?", claims.void)
        if claims.records:
            self._execute(_sql_claim(len(claims.records) // len(CLAIMED)), claims.records)
        if claims.done:
            self._connection.executemany(
                "UPDATE answers SET done = 1, answer = ?, size = ?, expires_at = ? WHERE lookup = ? AND hold = ?",
                claims.done,
            )

    async def commit(self) -> None:
        self._execute("COMMIT")

    async def rollback(self) -> None:
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def wait_for_lock(self, milliseconds: int) -> None:
        self._execute(f"PRAGMA busy_timeout = {milliseconds}")

    def close(self) -> None:
        self._connection.close()

    def _load_keys(self, wanted: Wanted) -> dict[int, Key]:
        numbers, sought = self._numbers, wanted.numbers
        unseen: set[bytes] = set()
        for key_hash in wanted.hashes:
            number = numbers.get(key_hash)
            if number is None:
                unseen.add(key_hash)
            else:
                sought.add(number)
        keys = self._load("id", sought) if sought else {}
        if keys and wanted.hashes:
            # The row under a remembered number may have got another secret since.
            unseen |= wanted.hashes - {key[HASH] for key in keys.values()}
        if unseen:
            found = self._load("key_hash", unseen)
            if len(numbers) + len(found) > NUMBERS_MAX:
                numbers.clear()
            for key in found.values():
                numbers[key[HASH]] = key[ID]
                keys.setdefault(key[ID], key)
        return keys

    def _load(self, column: str, wanted: Iterable[Any]) -> dict[int, Key]:
        values = list(wanted)
        return {row[ID]: list(row) for row in self._execute(_sql_load(column, len(values)), values)}

    def _rows(self, statement: str, table: HoldTable, ids: Sequence[int]) -> list[Any]:
        return self._execute(_sql_of(statement, table.name, len(ids)), ids).fetchall()

    def _insert(self, table: str, columns: tuple[str, ...], values: list[Any]) -> None:
        self._execute(_sql_insert(table, columns, len(values) // len(columns)), values)


@by_count
def _sql_load(column: str, count: int) -> str:
    newest = "(SELECT max(id) FROM entries)"
    return f"SELECT {KEY_COLUMNS}, {newest} FROM keys WHERE {column} IN ({marks(count)})"


@by_count
def _sql_of(statement: str, table: str, count: int) -> str:
    return statement.format(table, marks(count))


@by_count
def _sql_insert(table: str, columns: tuple[str, ...], count: int) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {rows(count, f'({marks(len(columns))})')}"


@by_count
def _sql_append(count: int) -> str:
    values = rows(count, f"('spend',{marks(len(ENTRY_COLUMNS))})")
    return f"INSERT INTO entries (kind, {', '.join(ENTRY_COLUMNS)}) VALUES {values}"


@by_count
def _sql_records(table: str, count: int) -> str:
    return (
        f"SELECT {', '.join(RECORD)}, EXISTS (SELECT 1 FROM {table} h WHERE h.id = a.hold) FROM answers a"
        f" WHERE lookup IN ({marks(count)})"
    )


@by_count
def _sql_claim(count: int) -> str:
    return (
        f"INSERT INTO answers ({', '.join(CLAIMED)}) VALUES {rows(count, '(?,?,?,?)')}"
        " ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint, hold = excluded.hold,"
        " expires_at = excluded.expires_at, done = 0, size = 0, answer = NULL"
    )


@by_count
def _sql_caps(count: int) -> str:
    return f"SELECT {', '.join(cap_counts.COLUMNS)} FROM spend_caps WHERE key IN ({marks(count)})"


@by_count
def _sql_windows(count: int) -> str:
    # As a join in this order, for SQLite answers (a, b, c) IN (VALUES …) by reading the whole table.
    return (
        f"WITH wanted (key, name, window_ms) AS (VALUES {rows(count, '(?,?,?)')})"
        " SELECT w.key, w.name, w.window_ms, r.start, r.count, r.previous FROM wanted w CROSS JOIN rate_windows r"
        " ON r.key = w.key AND r.name = w.name AND r.window_ms = w.window_ms"
    )


@by_count
def _sql_write_windows(count: int) -> str:
    return (
        "INSERT INTO rate_windows (key, name, window_ms, start, count, previous)"
        f" VALUES {rows(count, '(?,?,?,?,?,?)')} ON CONFLICT DO UPDATE"
        " SET start = excluded.start, count = excluded.count, previous = excluded.previous"
    )
