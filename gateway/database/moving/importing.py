"""An export into an empty database, in batches. Killed at any moment, it goes on with the next batch.

the file is whole ─▶ the database is empty ─▶ bookmark ─▶ batches … ─▶ totals and I2 hold ─▶ no bookmark
                      └ or has this file's bookmark ────────▲           └ else: it stays, nobody may serve
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Table, delete, select

from gateway.database.billing_tables import leases
from gateway.database.engine import Database
from gateway.database.moving import bookmark
from gateway.database.moving.archive import Archive, Header, Part, read_row
from gateway.database.moving.bookmark import Bookmark
from gateway.database.moving.failure import MovingFailed
from gateway.database.moving.numbers import set_numbers
from gateway.database.moving.patience import take_time
from gateway.database.moving.rows import insert_rows
from gateway.database.moving.tables import TABLES, binary_places, columns_of
from gateway.database.moving.totals import find_unbalanced, read_totals
from gateway.database.schema import known_revisions
from gateway.database.tables import instances
from gateway.errors import CreditsUnavailable

BATCH_ROWS = 10_000
BATCH_BYTES = 4 << 20

Batch = tuple[Part, list[list[Any]]]
OnRows = Callable[[int], None]


class Import:
    """One import of `archive` into `database`."""

    def __init__(self, archive: Archive, database: Database, on_rows: OnRows = lambda _: None) -> None:
        self._archive = archive
        self._database = database
        self._on_rows = on_rows

    async def run(self) -> int:
        """Do what is left to do; gives how many rows had been there. Raises MovingFailed."""
        _check_shape(self._archive.header)
        there = await self._database.transaction(partial(_begin, sha256=self._archive.sha256))
        before = there.rows
        self._on_rows(before)
        for part, rows in self._read_batches(before):
            there = await self._write(there, part, rows)
            self._on_rows(len(rows))
        await self._database.transaction(partial(_end, archive=self._archive, there=there))
        return before

    async def _write(self, there: Bookmark, part: Part, rows: list[list[Any]]) -> Bookmark:
        moved = Bookmark(there.sha256, there.rows + len(rows))
        try:
            await self._database.transaction(partial(_write_batch, part=part, rows=rows, there=there, moved=moved))
        except CreditsUnavailable as error:
            raise MovingFailed(
                f"rows {there.rows + 1} to {moved.rows} ({part.name}) can't be written: {error.cause}. Those before are"
                " in; run it again to go on"
            ) from error
        return moved

    def _read_batches(self, after: int) -> Iterator[Batch]:
        """Rows of one table each, bounded in number and size."""
        batch: Batch | None = None
        size = 0
        binary: tuple[int, ...] = ()
        for number, (part, line) in enumerate(self._archive.read_rows(after), after + 1):
            if batch is not None and (batch[0] is not part or len(batch[1]) >= BATCH_ROWS or size >= BATCH_BYTES):
                yield batch
                batch = None
            if batch is None:
                batch, size, binary = (part, []), 0, binary_places(_table(part))
            try:
                batch[1].append(read_row(part, line, binary))
            except ValueError as error:
                raise MovingFailed(f"{self._archive.path}: row {number}: {error}") from error
            size += len(line)
        if batch is not None:
            yield batch


def _check_shape(header: Header) -> None:
    """Raises MovingFailed where the file's tables are not ours."""
    known = known_revisions()
    if header.schema not in known:
        raise MovingFailed(f"the export was made by a newer gateway ({header.gateway}): import with that version")
    shape = {part.name: set(part.columns) for part in header.tables}
    if header.schema != known[0] or shape != {table.name: set(columns_of(table)) for table in TABLES}:
        raise MovingFailed(
            f"the export is of schema {header.schema}, made by version {header.gateway}; this one has {known[0]}:"
            " export with this version (the first start migrates a database)"
        )


def _begin(connection: Connection, sha256: str) -> Bookmark:
    """Where to begin, or to go on. Raises MovingFailed where the database is not for us."""
    there = bookmark.find_bookmark(connection)
    if there is not None:
        if there.sha256 != sha256:
            raise MovingFailed(
                "an import of another file into this database is not finished: go on with that file, or begin with an"
                " empty database"
            )
        return there
    # Leases say when work was done last. Whoever served nothing yet has such rows too.
    for table in (*TABLES, instances):
        if table is not leases and connection.execute(select(table).limit(1)).first() is not None:
            hint = ": a gateway runs on it, or died" if table is instances else ""
            raise MovingFailed(f"the database is not empty: there are rows in {table.name}{hint}. Use a new one")
    connection.execute(delete(leases))
    bookmark.begin(connection, sha256)
    return Bookmark(sha256, 0)


def _write_batch(connection: Connection, part: Part, rows: list[list[Any]], there: Bookmark, moved: Bookmark) -> None:
    take_time(connection)
    bookmark.move(connection, there, moved.rows)
    insert_rows(connection, _table(part), part.columns, rows)


def _end(connection: Connection, archive: Archive, there: Bookmark) -> None:
    """All is as it was, or nothing is served."""
    take_time(connection)
    bookmark.end(connection, there)
    wrong: Sequence[str] = read_totals(connection).differences(archive.totals)
    if not wrong:
        wrong = [f"{key_id}: balance or held don't fit" for key_id in find_unbalanced(connection)]
    if wrong:
        raise MovingFailed(
            f"what was imported is not what was exported ({'; '.join(wrong)}). Begin again with an empty database"
        )
    set_numbers(connection, archive.header.numbers)


def _table(part: Part) -> Table:
    return next(table for table in TABLES if table.name == part.name)
