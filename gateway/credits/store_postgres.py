"""The journal's transactions in PostgreSQL: two round trips for a batch, its statements pipelined.

    BEGIN · say which batch it is · lock the keys, in the order of their numbers · end the holds   ⇄
    write holds, entries, keys · COMMIT                                                           ⇄

Or one, where this process knows the rows of all its keys from earlier batches (known_keys.py). Then the batch is
decided by these, and the same statements are sent at once. They fail unless everything is as it was thought to be:
the keys' rows are locked and must be of the version that is known, each hold must be there, and the batch must not be
late. If not, nothing has happened, all that is known is forgotten, and the next try is one of two round trips.

The event loop awaits the answers (pipeline.py). What could block it, connecting, is done in a thread.

Which batch it is, is a counter in the row of this process's instance. It tells what became of a commit whose answer was
lost. Whoever asks writes the next number there if the batch's is not: so it waits for the end of that transaction, if
it has begun, and if the server has yet to read it, it will fail, for it must find an older number than its own. (What
PostgreSQL has for that, pg_xact_status, can lie: after a crash the number of a transaction that was never written is
given to another.)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import psycopg

from gateway.credits import cap_counts
from gateway.credits.changes_postgres import IS_ONE, VERSION_COLUMN, add_changes
from gateway.credits.claims import RECORD
from gateway.credits.known_keys import VERSION, KnownKeys
from gateway.credits.store import (
    ID,
    KEY_COLUMNS,
    LAST_ENTRY,
    WINDOW_COLUMNS,
    Changes,
    Found,
    HoldTable,
    Key,
    Place,
    Wanted,
)
from gateway.database.failure import DatabaseFailure, Kind
from gateway.database.pipeline import Pipeline, Rows
from gateway.database.postgres import PostgresConnection, PostgresDatabase, kind_of_postgres, public
from gateway.database.postgres_arrays import BYTES, array, arrays, bigints, unnest
from gateway.database.worker import Worker

BACKOFF_SECONDS = 0.5
"""After a connection that failed, until the next is tried; who asks meanwhile is told at once."""
ASK_SECONDS = 0.1

CHANGED = "somebody else has changed it meanwhile, so the gateway tries again"
"""What PostgreSQL's log says, of an attempt to read this as a number: an error is all that stops the statements behind
it. In a CASE it is not read before, because it has the count in it."""

_BEGIN = "BEGIN"
_COMMIT = "COMMIT"
_ROLLBACK = "ROLLBACK"
_SAY_WHICH = "UPDATE instances SET batch = $1 WHERE id = $2"
_FIND_WHICH = "SELECT batch FROM instances WHERE id = $1"
_FENCE = "UPDATE instances SET batch = $1::bigint + 1 WHERE id = $2 AND batch < $1::bigint"
_PLACE = WINDOW_COLUMNS[:3]
_WINDOWS = (
    f"SELECT {', '.join(f'r.{name}' for name in WINDOW_COLUMNS)} FROM {unnest(_PLACE)} JOIN rate_windows r"
    " ON r.key = t.key AND r.name = t.name AND r.window_ms = t.window_ms"
)
_CAPS = f"SELECT {', '.join(cap_counts.COLUMNS)} FROM spend_caps WHERE key = ANY($1::bigint[])"


def _if_all(count: str) -> str:
    """It fails unless it counts so many."""
    return f"SELECT CASE WHEN count(*) = {count}::bigint THEN 1 ELSE ('{CHANGED}: ' || count(*))::int END"


def _all_of(statement: str) -> str:
    """The same, but it fails unless it finds $2 rows."""
    return f"WITH found AS ({statement}) {_if_all('$2')} FROM found"


_SAY_WHICH_IN_TIME = (
    f"WITH said AS (UPDATE instances SET batch = $1 WHERE id = $2 AND batch < $1 RETURNING id) {_if_all('1')} FROM said"
)
_LOCK_KNOWN = (
    f"{_if_all('$3')} FROM (SELECT 1 FROM keys k JOIN unnest($1::bigint[], $2::bigint[]) AS t (id, version)"
    f" ON k.id = t.id WHERE {VERSION_COLUMN.format('k')} = t.version ORDER BY k.id FOR UPDATE OF k) found"
)


class _Statements:
    """Those that are about a provider's table of holds."""

    def __init__(self, table: HoldTable) -> None:
        self.find_keys = f"SELECT id, key FROM {table.name} WHERE {IS_ONE}"
        self.mark_answered = f"UPDATE {table.name} SET answered = 1 WHERE {IS_ONE} RETURNING id"
        self.mark_all_answered = _all_of(self.mark_answered)
        self.look_at = f"SELECT {', '.join(table.found)} FROM {table.name} WHERE {IS_ONE}"
        self.end = f"DELETE FROM {table.name} WHERE {IS_ONE} RETURNING {', '.join(table.ended)}"
        self.end_all = _all_of(f"DELETE FROM {table.name} WHERE {IS_ONE} RETURNING id")
        # Behind the lock on the keys, and each statement sees what is committed when it begins: so of two who claim
        # the same, the second sees what the first has written.
        self.find_records = (
            f"SELECT {', '.join(RECORD)}, (SELECT 1 FROM {table.name} h WHERE h.id = a.hold) IS NOT NULL"
            " FROM answers a WHERE lookup = ANY($1::bytea[])"
        )


class PostgresStore:
    """Implements Store, for the event loop in which it is first used. Connects when it is needed, and again when the
    connection has broken."""

    def __init__(
        self,
        database: PostgresDatabase,
        table: HoldTable,
        on_unsure: Callable[[], None],
        on_answer: Callable[[], None],
    ) -> None:
        self._database = database
        self._table = table
        self._statements = _Statements(table)
        self._connector = Worker("connector")
        self._on_unsure = on_unsure
        self._on_answer = on_answer
        self._lock_timeout_ms = 1_000
        self._pipeline: Pipeline | None = None
        self._is_closed = False
        self._cause = ""
        self._retry_at = 0.0
        self._instance = 0
        self._batch = 0
        self._is_read_only = True
        self._changes = Changes()
        self._known = KnownKeys()
        self._has_use = False  # with Unkey nothing is ever presumed
        self._found = Found()
        self._presumed: Wanted | None = None

    def begin(self, instance: int, *, is_read_only: bool) -> None:
        self._instance, self._is_read_only, self._changes = instance, is_read_only, Changes()
        if not is_read_only:
            self._batch = max(self._batch + 1, time.time_ns())  # never one that an older process has used

    async def read(self, wanted: Wanted) -> Found:
        self._presumed = None
        self._has_use |= wanted.is_plain
        if wanted.is_plain and not self._is_read_only and self._pipeline is not None and self._pipeline.is_idle:
            keys = self._known.find(wanted)
            if keys is not None:
                return self._presume(wanted, keys)
        is_reused = self._pipeline is not None
        try:
            return await self._read(wanted)
        except DatabaseFailure:
            if not is_reused or self._pipeline is not None:
                raise
        # The connection had broken while nobody used it. Nothing was written.
        return await self._read(wanted)

    def _presume(self, wanted: Wanted, keys: dict[int, Key]) -> Found:
        """That all is as this process has left it. What is written tells the server to look."""
        self._presumed = wanted
        found = self._found = Found(keys)
        found.answered = [(hold_id,) for hold_id in wanted.answered]
        found.ended = [(hold_id, 0) for hold_id in wanted.ended]
        found.entry_ids = count(-1, -1)
        return found

    async def _read(self, wanted: Wanted) -> Found:
        found = self._found = Found()
        found.entry_ids = count(-1, -1)  # stand-ins: changes_postgres.py
        pipeline = await self._connect()
        with self._translated(pipeline):
            if self._is_read_only:
                self._add_keys(pipeline, wanted, _KEYS)
                found.keys = _by_number((await pipeline.run())[0])
                return found
            pipeline.add(_BEGIN)
            pipeline.add(_SAY_WHICH, str(self._batch), str(self._instance))
            if wanted.strays:
                strays = pipeline.add(self._statements.find_keys, bigints(wanted.strays))
                found.keys_of_strays = dict((await pipeline.run())[strays])
                wanted.numbers.update(found.keys_of_strays.values())
            await self._read_locked(pipeline, wanted, found)
        return found

    async def _read_locked(self, pipeline: Pipeline, wanted: Wanted, found: Found) -> None:
        statements = self._statements
        answered = looked_at = ended = records = None
        keys = self._add_keys(pipeline, wanted, _LOCKED_KEYS)
        if wanted.answered:
            answered = pipeline.add(statements.mark_answered, bigints(wanted.answered))
        if wanted.looked_at:
            looked_at = pipeline.add(statements.look_at, bigints(wanted.looked_at))
        if wanted.ended:
            ended = pipeline.add(statements.end, bigints(wanted.ended))
        if wanted.lookups:
            records = pipeline.add(statements.find_records, array(wanted.lookups, BYTES))
        rows = await pipeline.run()
        found.keys = _by_number(rows[keys])
        if answered is not None:
            found.answered = rows[answered]
        if looked_at is not None:
            found.looked_at = rows[looked_at]
        if ended is not None:
            found.ended = rows[ended]
        if records is not None:
            found.records = rows[records]

    async def read_windows(self, places: Sequence[Place]) -> Sequence[Sequence[Any]]:
        flat = [value for place in places for value in place]
        pipeline = self._connected()
        with self._translated(pipeline):
            pipeline.add(_WINDOWS, *arrays(_PLACE, flat))
            return (await pipeline.run())[0]

    async def read_caps(self, keys: Sequence[int]) -> Sequence[Sequence[Any]]:
        pipeline = self._connected()
        with self._translated(pipeline):
            pipeline.add(_CAPS, bigints(keys))
            return (await pipeline.run())[0]

    def write(self, changes: Changes) -> None:
        """With the commit: what is written and COMMIT are sent at once."""
        self._changes = changes

    async def commit(self) -> None:
        if self._is_read_only:
            return
        pipeline, presumed, changes = self._connected(), self._presumed, self._changes
        try:
            with self._translated(pipeline):
                if presumed is not None:
                    self._add_presumptions(pipeline, presumed)
                keys = add_changes(pipeline, self._table, changes)
                pipeline.add(_COMMIT)
                rows = await pipeline.run()
            self._learn(changes.keys, () if keys is None else rows[keys])
            return
        except DatabaseFailure as failure:
            if failure.kind is not Kind.away or self._pipeline is not None:
                raise
            lost = failure
        if not await self._find_out():
            if presumed is not None:  # its connection may have been broken for long: it is for the next try to find out
                raise DatabaseFailure(Kind.stale, str(lost)) from lost
            raise lost

    def _add_presumptions(self, pipeline: Pipeline, presumed: Wanted) -> None:
        """All of what is otherwise read, as statements that fail unless they find what was presumed."""
        keys, statements = self._found.keys, self._statements
        pipeline.add(_BEGIN)
        pipeline.add(_SAY_WHICH_IN_TIME, str(self._batch), str(self._instance))
        versions = bigints([key[VERSION] for key in keys.values()])
        pipeline.add(_LOCK_KNOWN, bigints(list(keys)), versions, str(len(keys)))
        if presumed.answered:
            pipeline.add(statements.mark_all_answered, bigints(presumed.answered), str(len(presumed.answered)))
        if presumed.ended:
            pipeline.add(statements.end_all, bigints(presumed.ended), str(len(presumed.ended)))

    def _learn(self, changed: dict[int, Key], rows: Sequence[Sequence[Any]]) -> None:
        """The batch is written: what the rows of its keys are now."""
        for number, last_entry, version in rows:
            key = changed[number]
            key[LAST_ENTRY], key[VERSION] = last_entry, version
        if self._has_use:
            self._known.learn(self._found.keys.values())
        if self._presumed is not None:
            self._known.on_right()

    async def rollback(self) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        pipeline.forget()  # what a batch that broke off by a defect of ours has left is not the next one's
        self._known.forget()  # who decided has changed the rows
        if self._is_read_only or pipeline.is_idle:
            return
        pipeline.add(_ROLLBACK)
        try:
            await pipeline.run()
        except psycopg.Error as error:
            self._give_up(error)

    def wait_for_lock(self, milliseconds: int) -> None:
        self._lock_timeout_ms = milliseconds

    def close(self) -> None:
        self._is_closed = True
        self._connector.close(0)
        if self._pipeline is not None:
            self._pipeline.close()

    @staticmethod
    def _add_keys(pipeline: Pipeline, wanted: Wanted, queries: tuple[str, str, str]) -> int:
        by_number, by_hash, by_either = queries
        numbers, hashes = bigints(list(wanted.numbers)), array(list(wanted.hashes), BYTES)
        if not wanted.hashes:
            return pipeline.add(by_number, numbers)
        return pipeline.add(by_either, numbers, hashes) if wanted.numbers else pipeline.add(by_hash, hashes)

    # A connection that comes and goes

    async def _connect(self) -> Pipeline:
        """For a transaction that begins. One that has begun goes on where it is (`_connected`), or not at all."""
        pipeline = self._pipeline
        if pipeline is not None:
            if pipeline.is_idle:
                return pipeline
            self._pipeline = None
            pipeline.close()
        if time.monotonic() < self._retry_at:
            raise DatabaseFailure(Kind.away, self._cause)
        try:
            connection = await self._connector.run(self._open)
        except psycopg.Error as error:
            self._give_up(error)
            raise DatabaseFailure(Kind.away, self._cause) from error
        self._known.forget()  # the server may have another past than the one that gave the numbers
        self._pipeline = pipeline = Pipeline(connection, asyncio.get_running_loop(), self._on_answer)
        return pipeline

    def _open(self) -> PostgresConnection:
        """In the connector's thread: it may take CONNECT_SECONDS, and nobody may be left to want it."""
        connection = self._database.connect(lock_timeout_ms=self._lock_timeout_ms)
        if self._is_closed:
            connection.close()
        return connection

    def _connected(self) -> Pipeline:
        assert self._pipeline is not None
        return self._pipeline

    def _give_up(self, error: psycopg.Error) -> None:
        pipeline, self._pipeline = self._pipeline, None
        self._cause = public(error)
        self._retry_at = time.monotonic() + (0 if pipeline is not None else BACKOFF_SECONDS)
        if pipeline is not None:
            pipeline.close()

    @contextmanager
    def _translated(self, pipeline: Pipeline) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, UnicodeEncodeError) as error:
            is_broken = pipeline.connection.closed
            kind = kind_of_postgres(error, is_broken=is_broken)
            if self._presumed is not None and CHANGED in str(error):
                kind = Kind.stale
                self._known.on_wrong()
            if is_broken and isinstance(error, psycopg.Error):
                self._give_up(error)
            raise DatabaseFailure(kind, public(error)) from error

    async def _find_out(self) -> bool:
        """Whether the batch was committed whose answer was lost. Asks until it knows.

        An instance without a row was taken for dead: whatever became of the batch, its holds are recovery's.
        """
        self._on_unsure()
        while True:
            try:
                pipeline = await self._connect()
                with self._translated(pipeline):
                    # The first waits for a transaction that has begun, and stops one that has not.
                    pipeline.add(_FENCE, str(self._batch), str(self._instance))
                    pipeline.add(_FIND_WHICH, str(self._instance))
                    _, rows = await pipeline.run()
                if rows == [(self._batch,)]:
                    return True
                self._batch += 1
                return False
            except DatabaseFailure:
                pass
            await asyncio.sleep(ASK_SECONDS)


def _keys(how: str) -> tuple[str, str, str]:
    """The keys by their numbers, by their hashes, by either."""
    select = f"SELECT {KEY_COLUMNS}, {VERSION_COLUMN.format('keys')} FROM keys WHERE"
    by_number, by_hash = "id = ANY($1::bigint[])", "key_hash = ANY(${}::bytea[])"
    return (
        f"{select} {by_number}{how}",
        f"{select} {by_hash.format(1)}{how}",
        f"{select} {by_number} OR {by_hash.format(2)}{how}",
    )


_KEYS, _LOCKED_KEYS = _keys(""), _keys(" ORDER BY id FOR UPDATE")


def _by_number(rows: Rows) -> dict[int, list[Any]]:
    return {row[ID]: list(row) for row in rows}
