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

from gateway.credits import cap_counts
from gateway.credits.changes_postgres import add_changes
from gateway.credits.claims import RECORD
from gateway.credits.store import (
    ID,
    KEY_COLUMNS,
    WINDOW_COLUMNS,
    Changes,
    Found,
    HoldTable,
    Place,
    Wanted,
)
from gateway.database.failure import DatabaseFailure, Kind
from gateway.database.pipeline import Pipeline, Rows
from gateway.database.postgres import PostgresDatabase, kind_of_postgres, public
from gateway.database.postgres_arrays import BYTES, array, arrays, bigints, unnest

BACKOFF_SECONDS = 0.5
"""After a connection that failed, until the next is tried; who asks meanwhile is told at once."""
ASK_SECONDS = 0.1


class PostgresStore:
    """Implements Store. Connects when it is needed, and again when the connection has broken."""

    is_remote = True

    def __init__(self, database: PostgresDatabase, table: HoldTable, on_unsure: Callable[[], None]) -> None:
        self._database = database
        self._table = table
        self._on_unsure = on_unsure
        self._lock_timeout_ms = 1_000
        self._pipeline: Pipeline | None = None
        self._cause = ""
        self._retry_at = 0.0
        self._instance = 0
        self._batch = 0
        self._is_read_only = True
        self._is_reused = False
        self._changes = Changes()

    def begin(self, instance: int, *, is_read_only: bool) -> None:
        self._is_reused = self._pipeline is not None
        self._connect().forget()  # what a batch that broke off by a defect of ours has left is not this one's
        self._instance, self._is_read_only, self._changes = instance, is_read_only, Changes()
        if not is_read_only:
            self._batch = max(self._batch + 1, time.time_ns())  # never one that an older process has used

    def read(self, wanted: Wanted) -> Found:
        try:
            return self._read(wanted)
        except DatabaseFailure:
            if not self._is_reused or self._pipeline is not None:
                raise
        # The connection had broken while nobody used it. Nothing was written.
        return self._read(wanted)

    def _read(self, wanted: Wanted) -> Found:
        found = Found()
        with self._translated() as pipeline:
            if self._is_read_only:
                self._add_keys(pipeline, wanted, "")
                found.keys = _by_number(pipeline.run()[0])
                return found
            pipeline.add("BEGIN")
            pipeline.add("UPDATE instances SET batch = $1 WHERE id = $2", str(self._batch), str(self._instance))
            if wanted.strays:
                strays = pipeline.add(f"SELECT id, key FROM {self._table.name} WHERE {_IS_ONE}", bigints(wanted.strays))
                found.keys_of_strays = dict(pipeline.run()[strays])
                wanted.numbers.update(found.keys_of_strays.values())
            self._read_locked(pipeline, wanted, found)
        return found

    def _read_locked(self, pipeline: Pipeline, wanted: Wanted, found: Found) -> None:
        table = self._table
        answered = looked_at = ended = numbers = records = None
        keys = self._add_keys(pipeline, wanted, " ORDER BY id FOR UPDATE")
        if wanted.answered:
            update = f"UPDATE {table.name} SET answered = 1 WHERE {_IS_ONE} RETURNING id"
            answered = pipeline.add(update, bigints(wanted.answered))
        if wanted.looked_at:
            select = f"SELECT {', '.join(table.found)} FROM {table.name} WHERE {_IS_ONE}"
            looked_at = pipeline.add(select, bigints(wanted.looked_at))
        if wanted.ended:
            delete = f"DELETE FROM {table.name} WHERE {_IS_ONE} RETURNING {', '.join(table.ended)}"
            ended = pipeline.add(delete, bigints(wanted.ended))
            take = "SELECT nextval('entry_ids') FROM generate_series(1, $1::bigint)"
            numbers = pipeline.add(take, str(len(wanted.ended)))
        if wanted.lookups:
            # Behind the lock on the keys, and each statement sees what is committed when it begins: so of two
            # who claim the same, the second sees what the first has written.
            select = (
                f"SELECT {', '.join(RECORD)}, EXISTS (SELECT 1 FROM {table.name} h WHERE h.id = a.hold)"
                " FROM answers a WHERE lookup = ANY($1::bytea[])"
            )
            records = pipeline.add(select, array(wanted.lookups, BYTES))
        rows = pipeline.run()

        def at(place: int | None) -> Rows:
            return [] if place is None else rows[place]

        found.keys, found.answered, found.looked_at = _by_number(at(keys)), at(answered), at(looked_at)
        found.ended, found.records = at(ended), at(records)
        found.entry_ids = iter([row[0] for row in at(numbers)])

    def read_windows(self, places: Sequence[Place]) -> Sequence[Sequence[Any]]:
        columns = ", ".join(f"r.{name}" for name in WINDOW_COLUMNS)
        query = (
            f"SELECT {columns} FROM {unnest(WINDOW_COLUMNS[:3])} JOIN rate_windows r"
            " ON r.key = t.key AND r.name = t.name AND r.window_ms = t.window_ms"
        )
        flat = [value for place in places for value in place]
        with self._translated() as pipeline:
            pipeline.add(query, *arrays(WINDOW_COLUMNS[:3], flat))
            return pipeline.run()[0]

    def read_caps(self, keys: Sequence[int]) -> Sequence[Sequence[Any]]:
        with self._translated() as pipeline:
            query = f"SELECT {', '.join(cap_counts.COLUMNS)} FROM spend_caps WHERE key = ANY($1::bigint[])"
            pipeline.add(query, bigints(keys))
            return pipeline.run()[0]

    def write(self, changes: Changes) -> None:
        """With the commit: what is written and COMMIT are sent at once."""
        self._changes = changes

    def commit(self) -> None:
        if self._is_read_only:
            return
        try:
            with self._translated() as pipeline:
                add_changes(pipeline, self._table, self._changes)
                pipeline.add("COMMIT")
                pipeline.run()
        except DatabaseFailure as failure:
            if failure.kind is not Kind.away or self._pipeline is not None:
                raise
            if not self._find_out():
                raise

    def rollback(self) -> None:
        if self._pipeline is not None and not self._is_read_only:
            try:
                self._pipeline.connection.execute("ROLLBACK")
            except psycopg.Error as error:
                self._give_up(error)

    def wait_for_lock(self, milliseconds: int) -> None:
        self._lock_timeout_ms = milliseconds

    def close(self) -> None:
        if self._pipeline is not None:
            with suppress(psycopg.Error):
                self._pipeline.connection.close()

    @staticmethod
    def _add_keys(pipeline: Pipeline, wanted: Wanted, how: str) -> int:
        which, values = [], []
        if wanted.numbers or not wanted.hashes:
            values.append(bigints(list(wanted.numbers)))
            which.append(f"id = ANY(${len(values)}::bigint[])")
        if wanted.hashes:
            values.append(array(list(wanted.hashes), BYTES))
            which.append(f"key_hash = ANY(${len(values)}::bytea[])")
        return pipeline.add(f"SELECT {KEY_COLUMNS} FROM keys WHERE {' OR '.join(which)}{how}", *values)

    # A connection that comes and goes

    def _connect(self) -> Pipeline:
        if self._pipeline is None:
            if time.monotonic() < self._retry_at:
                raise DatabaseFailure(Kind.away, self._cause)
            try:
                self._pipeline = Pipeline(self._database.connect(lock_timeout_ms=self._lock_timeout_ms))
            except psycopg.Error as error:
                self._give_up(error)
                raise DatabaseFailure(Kind.away, self._cause) from error
        return self._pipeline

    def _give_up(self, error: psycopg.Error) -> None:
        pipeline, self._pipeline = self._pipeline, None
        self._cause = public(error)
        self._retry_at = time.monotonic() + (0 if pipeline is not None else BACKOFF_SECONDS)
        if pipeline is not None:
            with suppress(psycopg.Error):
                pipeline.connection.close()

    @contextmanager
    def _translated(self) -> Iterator[Pipeline]:
        pipeline = self._connect()
        try:
            yield pipeline
        except (psycopg.Error, UnicodeEncodeError) as error:
            pipeline.forget()
            is_broken = pipeline.connection.closed
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
                with self._translated() as pipeline:
                    # By itself it is a transaction of its own, so the lock is let go at once.
                    pipeline.add("SELECT batch FROM instances WHERE id = $1 FOR UPDATE", str(self._instance))
                    (rows,) = pipeline.run()
                return rows == [(self._batch,)]
            except DatabaseFailure:
                time.sleep(ASK_SECONDS)


_IS_ONE = "id = ANY($1::bigint[])"


def _by_number(rows: Rows) -> dict[int, list[Any]]:
    return {row[ID]: list(row) for row in rows}
