"""The journal's transactions in PostgreSQL: two round trips for a batch, its statements pipelined.

    BEGIN · say which batch it is · lock the keys, in the order of their numbers · end the holds · take numbers   ⇄
    write holds, entries, keys · COMMIT                                                                         ⇄

Which batch it is, is a counter in the row of this process's instance. It tells what became of a commit whose answer was
lost: whoever asks waits for the row, and so for the end of that transaction, and finds the number or does not. (What
PostgreSQL has for that, pg_xact_status, can lie: after a crash the number of a transaction that was never written is
given to another.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import Cursor

from gateway.credits import cap_counts
from gateway.credits.cap_counts import CapCounts
from gateway.credits.claims import CLAIMED, RECORD, Claims
from gateway.credits.store import (
    BALANCE,
    DOUBT_COLUMNS,
    ENTRY_COLUMNS,
    HELD,
    ID,
    KEY_COLUMNS,
    LAST_ENTRY,
    WINDOW_COLUMNS,
    Changes,
    Found,
    HoldTable,
    Place,
    Wanted,
)
from gateway.database.failure import DatabaseFailure, Kind
from gateway.database.postgres import PostgresConnection, PostgresDatabase, kind_of_postgres, public

BACKOFF_SECONDS = 0.5
"""After a connection that failed, until the next is tried; who asks meanwhile is told at once."""
ASK_SECONDS = 0.1
BYTES, WORDS = "bytea", "text"
KIND_OF_COLUMN = dict.fromkeys(("key_hash", "lookup", "fingerprint", "answer"), BYTES) | dict.fromkeys(
    ("route", "request_id", "reason", "cause", "name"), WORDS
)
"""All others are bigint."""


class PostgresStore:
    """Implements Store. Connects when it is needed, and again when the connection has broken."""

    is_remote = True

    def __init__(self, database: PostgresDatabase, table: HoldTable, on_unsure: Callable[[], None]) -> None:
        self._database = database
        self._table = table
        self._on_unsure = on_unsure
        self._lock_timeout_ms = 1_000
        self._connection: PostgresConnection | None = None
        self._cause = ""
        self._retry_at = 0.0
        self._instance = 0
        self._batch = 0
        self._is_read_only = True
        self._is_reused = False
        self._changes = Changes()

    def begin(self, instance: int, *, is_read_only: bool) -> None:
        self._is_reused = self._connection is not None
        self._connect()
        self._instance, self._is_read_only, self._changes = instance, is_read_only, Changes()
        if not is_read_only:
            self._batch = max(self._batch + 1, time.time_ns())  # never one that an older process has used

    def read(self, wanted: Wanted) -> Found:
        try:
            return self._read(wanted)
        except DatabaseFailure:
            if not self._is_reused or self._connection is not None:
                raise
        # The connection had broken while nobody used it. Nothing was written.
        return self._read(wanted)

    def _read(self, wanted: Wanted) -> Found:
        found, table = Found(), self._table
        with self._translated() as connection:
            if self._is_read_only:
                found.keys = _by_number(self._select_keys(connection, wanted, ""))
                return found
            answered = looked_at = ended = numbers = records = None
            with connection.pipeline():
                connection.execute("BEGIN")
                connection.execute("UPDATE instances SET batch = %s WHERE id = %s", (self._batch, self._instance))
                if wanted.strays:
                    select = f"SELECT id, key FROM {table.name} WHERE id = {_ANY}"
                    found.keys_of_strays = dict(connection.execute(select, _ids(wanted.strays)).fetchall())
                    wanted.numbers.update(found.keys_of_strays.values())
                keys = self._select_keys(connection, wanted, " ORDER BY id FOR UPDATE")
                if wanted.answered:
                    update = f"UPDATE {table.name} SET answered = 1 WHERE id = {_ANY} RETURNING id"
                    answered = connection.execute(update, _ids(wanted.answered))
                if wanted.looked_at:
                    select = f"SELECT {', '.join(table.found)} FROM {table.name} WHERE id = {_ANY}"
                    looked_at = connection.execute(select, _ids(wanted.looked_at))
                if wanted.ended:
                    delete = f"DELETE FROM {table.name} WHERE id = {_ANY} RETURNING {', '.join(table.ended)}"
                    ended = connection.execute(delete, _ids(wanted.ended))
                    take = "SELECT nextval('entry_ids') FROM generate_series(1, %s)"
                    numbers = connection.execute(take, (len(wanted.ended),))
                if wanted.lookups:
                    # Behind the lock on the keys, and each statement sees what is committed when it begins: so of two
                    # who claim the same, the second sees what the first has written.
                    select = (
                        f"SELECT {', '.join(RECORD)}, EXISTS (SELECT 1 FROM {table.name} h WHERE h.id = a.hold)"
                        " FROM answers a WHERE lookup = ANY(%s::bytea[])"
                    )
                    records = connection.execute(select, (_array(wanted.lookups, BYTES),))
            # Read behind the pipeline: inside it, each would be asked for by itself.
            found.answered, found.looked_at, found.ended = _fetch(answered), _fetch(looked_at), _fetch(ended)
            found.entry_ids = iter([row[0] for row in _fetch(numbers)])
            found.keys, found.records = _by_number(keys), _fetch(records)
        return found

    def read_windows(self, places: Sequence[Place]) -> Sequence[Sequence[Any]]:
        columns = ", ".join(f"r.{name}" for name in WINDOW_COLUMNS)
        query = (
            f"SELECT {columns} FROM {_unnest(WINDOW_COLUMNS[:3])} JOIN rate_windows r"
            " ON r.key = t.key AND r.name = t.name AND r.window_ms = t.window_ms"
        )
        with self._translated() as connection:
            flat = [value for place in places for value in place]
            return connection.execute(query, _columns(WINDOW_COLUMNS[:3], flat)).fetchall()

    def read_caps(self, keys: Sequence[int]) -> Sequence[Sequence[Any]]:
        query = f"SELECT {', '.join(cap_counts.COLUMNS)} FROM spend_caps WHERE key = {_ANY}"
        with self._translated() as connection:
            return connection.execute(query, _ids(keys)).fetchall()

    def write(self, changes: Changes) -> None:
        """With the commit: what is written and COMMIT are sent at once."""
        self._changes = changes

    def commit(self) -> None:
        if self._is_read_only:
            return
        try:
            with self._translated() as connection, connection.pipeline():
                self._send(connection, self._changes)
                connection.execute("COMMIT")
        except DatabaseFailure as failure:
            if failure.kind is not Kind.away or self._connection is not None:
                raise
            if not self._find_out():
                raise

    def rollback(self) -> None:
        if self._connection is not None and not self._is_read_only:
            try:
                self._connection.execute("ROLLBACK")
            except psycopg.Error as error:
                self._give_up(error)

    def wait_for_lock(self, milliseconds: int) -> None:
        self._lock_timeout_ms = milliseconds

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()

    def _send(self, connection: PostgresConnection, changes: Changes) -> None:
        table = self._table
        if changes.notes:
            names = ("key", "drawn", "answered", "id")
            connection.execute(
                f"UPDATE {table.name} h SET key = t.key, drawn = t.drawn, asked = 0, answered = t.answered"
                f" FROM {_unnest(names)} WHERE h.id = t.id",
                _columns(names, [value for note in changes.notes for value in note]),
            )
        if changes.holds:
            _insert(connection, table.name, table.columns, changes.holds)
        if changes.entries:
            _insert(connection, "entries", ENTRY_COLUMNS, changes.entries, kind="spend")
        if changes.doubts:
            _insert(connection, "doubts", DOUBT_COLUMNS, changes.doubts)
        if changes.windows:
            _insert(connection, "rate_windows", WINDOW_COLUMNS, changes.windows, conflict=_COUNT_ON)
        if changes.claims is not None:
            _write_claims(connection, changes.claims)
        if changes.caps is not None:
            _write_caps(connection, changes.caps)
        if changes.keys:
            names = ("id", "balance", "held", "last_entry")
            rows = [(key[ID], key[BALANCE], key[HELD], key[LAST_ENTRY]) for key in changes.keys.values()]
            connection.execute(
                "UPDATE keys k SET balance = t.balance, held = t.held, last_entry = t.last_entry"
                f" FROM {_unnest(names)} WHERE k.id = t.id",
                _columns(names, [value for row in rows for value in row]),
            )

    def _select_keys(self, connection: PostgresConnection, wanted: Wanted, how: str) -> Cursor[Any]:
        which, values = [], []
        if wanted.numbers or not wanted.hashes:
            which.append(f"id = {_ANY}")
            values.append(_array(list(wanted.numbers), "bigint"))
        if wanted.hashes:
            which.append("key_hash = ANY(%s::bytea[])")
            values.append(_array(list(wanted.hashes), BYTES))
        return connection.execute(f"SELECT {KEY_COLUMNS} FROM keys WHERE {' OR '.join(which)}{how}", values)

    # A connection that comes and goes

    def _connect(self) -> PostgresConnection:
        if self._connection is None:
            if time.monotonic() < self._retry_at:
                raise DatabaseFailure(Kind.away, self._cause)
            try:
                self._connection = self._database.connect(lock_timeout_ms=self._lock_timeout_ms)
                self._connection.prepare_threshold = 2
            except psycopg.Error as error:
                self._give_up(error)
                raise DatabaseFailure(Kind.away, self._cause) from error
        return self._connection

    def _give_up(self, error: psycopg.Error) -> None:
        connection, self._connection = self._connection, None
        self._cause = public(error)
        self._retry_at = time.monotonic() + (0 if connection is not None else BACKOFF_SECONDS)
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    @contextmanager
    def _translated(self) -> Iterator[PostgresConnection]:
        connection = self._connect()
        try:
            yield connection
        except (psycopg.Error, UnicodeEncodeError) as error:
            is_broken = connection.closed or connection.broken
            kind = kind_of_postgres(error, is_broken=is_broken)
            if is_broken and isinstance(error, psycopg.Error):
                self._give_up(error)
            raise DatabaseFailure(kind, public(error)) from error

    def _find_out(self) -> bool:
        """Whether the batch was committed whose answer was lost. Asks until it knows.

        An instance without a row was taken for dead: whatever became of the batch, its holds are recovery's.
        """
        self._on_unsure()
        while True:
            try:
                with self._translated() as connection, connection.transaction():
                    query = "SELECT batch FROM instances WHERE id = %s FOR UPDATE"
                    row = connection.execute(query, (self._instance,)).fetchone()
                return row is not None and row[0] == self._batch
            except DatabaseFailure:
                time.sleep(ASK_SECONDS)


_ANY = "ANY(%s::bigint[])"
_COUNT_ON = (
    " ON CONFLICT (key, name, window_ms) DO UPDATE"
    " SET start = excluded.start, count = excluded.count, previous = excluded.previous"
)


_PLACE = ("lookup", "hold")
_CLAIM = (
    " ON CONFLICT (lookup) DO UPDATE SET fingerprint = excluded.fingerprint, hold = excluded.hold,"
    " expires_at = excluded.expires_at, done = 0, size = 0, answer = NULL"
)


def _write_claims(connection: PostgresConnection, claims: Claims) -> None:
    if claims.void:
        connection.execute(
            f"DELETE FROM answers a USING {_unnest(_PLACE)} WHERE a.lookup = t.lookup AND a.hold = t.hold",
            _columns(_PLACE, [value for row in claims.void for value in row]),
        )
    if claims.records:
        _insert(connection, "answers", CLAIMED, claims.records, conflict=_CLAIM)
    if claims.done:
        names = ("answer", "size", "expires_at", "lookup", "hold")
        connection.execute(
            "UPDATE answers a SET done = 1, answer = t.answer, size = t.size, expires_at = t.expires_at"
            f" FROM {_unnest(names)} WHERE a.lookup = t.lookup AND a.hold = t.hold",
            _columns(names, [value for row in claims.done for value in row]),
        )


def _write_caps(connection: PostgresConnection, caps: CapCounts) -> None:
    names = ("day", "day_spent", "month", "month_spent", "key")
    connection.execute(
        "UPDATE spend_caps c SET day = t.day, day_spent = t.day_spent, month = t.month, month_spent = t.month_spent"
        f" FROM {_unnest(names)} WHERE c.key = t.key",
        _columns(names, [value for row in caps.rows() for value in row]),
    )


def _insert(
    connection: PostgresConnection,
    table: str,
    columns: tuple[str, ...],
    values: list[Any],
    *,
    conflict: str = "",
    kind: str = "",
) -> None:
    names = ", ".join(columns)
    more, constant = (", kind", f", '{kind}'") if kind else ("", "")
    statement = f"INSERT INTO {table} ({names}{more}) SELECT {names}{constant} FROM {_unnest(columns)}{conflict}"
    connection.execute(statement, _columns(columns, values))


def _unnest(columns: Sequence[str]) -> str:
    arrays = ", ".join(f"%s::{KIND_OF_COLUMN.get(name, 'bigint')}[]" for name in columns)
    return f"unnest({arrays}) AS t ({', '.join(columns)})"


def _columns(columns: Sequence[str], values: Sequence[Any]) -> list[str]:
    """The rows' values as an array for each column."""
    width = len(columns)
    return [_array(values[at::width], KIND_OF_COLUMN.get(name, "bigint")) for at, name in enumerate(columns)]


def _ids(ids: Sequence[int]) -> tuple[str]:
    return (_array(ids, "bigint"),)


def _array(values: Sequence[Any], kind: str) -> str:
    """PostgreSQL's text of an array. The driver's own adapter of lists costs twice as much as all the rest."""
    if kind == BYTES:
        return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"
    if kind == WORDS:
        return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fetch(cursor: Cursor[Any] | None) -> list[Any]:
    return [] if cursor is None else cursor.fetchall()


def _by_number(cursor: Cursor[Any]) -> dict[int, list[Any]]:
    return {row[ID]: list(row) for row in cursor.fetchall()}
