"""Everything in a database, as one consistent moment, into a file. Rows pass through; none is kept in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import BinaryIO

from sqlalchemy import Connection, select

from gateway import __version__
from gateway.database.engine import Database
from gateway.database.moving.archive import ArchiveWriter, Header, Part
from gateway.database.moving.bookmark import refuse_unfinished
from gateway.database.moving.failure import MovingFailed
from gateway.database.moving.numbers import read_numbers
from gateway.database.moving.patience import take_time
from gateway.database.moving.tables import TABLES, binary_places, columns_of
from gateway.database.moving.totals import Totals, find_unbalanced, read_totals
from gateway.database.schema import HEAD
from gateway.database.tables import instances

ROWS_AT_ONCE = 2_000
POLL_SECONDS = 0.1

OnRows = Callable[[int, int], None]
"""Told how many rows more are done, and of how many in all."""


class Export:
    """One export into `file`. Use `run` as the work of one `Database.read`."""

    def __init__(self, file: BinaryIO, on_rows: OnRows = lambda _done, _of: None) -> None:
        self._file = file
        self._on_rows = on_rows
        self._has_begun = False

    def run(self, connection: Connection) -> Totals:
        """Raises MovingFailed, DatabaseError; then what is in the file is worth nothing."""
        self._begin()
        take_time(connection)
        refuse_unfinished(connection)
        unbalanced = find_unbalanced(connection)
        if unbalanced:
            raise MovingFailed(
                f"the books don't balance: {', '.join(unbalanced)}. Nothing was exported; see `gateway credits history`"
            )
        totals = read_totals(connection)
        header = _header(connection, totals)
        writer = ArchiveWriter(self._file)
        writer.write_header(header)
        for part in header.tables:
            self._write_table(connection, writer, part, header.rows)
        writer.close(totals)
        return totals

    def _begin(self) -> None:
        """A read may be run again where the database went away in the middle: then the file begins again too."""
        if self._has_begun:
            if not self._file.seekable():
                raise MovingFailed("the database went away in the middle: run it again")
            self._file.seek(0)
            self._file.truncate()
        self._has_begun = True

    def _write_table(self, connection: Connection, writer: ArchiveWriter, part: Part, of: int) -> None:
        table = next(table for table in TABLES if table.name == part.name)
        binary, count = binary_places(table), 0
        query = select(table).order_by(*table.primary_key.columns)
        rows = connection.execute(query, execution_options={"stream_results": True, "yield_per": ROWS_AT_ONCE})
        for some in rows.partitions():
            writer.write_rows(part.name, some, binary)
            count += len(some)
            self._on_rows(len(some), of)
        if count != part.rows:
            raise MovingFailed(f"{part.name} has {count} rows where {part.rows} were counted: the database is damaged")


async def has_living(database: Database, watch_seconds: float) -> bool:
    """Whether a process works on this database: one of those that signed on beats within that time.

    Those that don't are dead; what they held is exported like everything else.
    """
    first = await database.read(_read_beats)
    give_up_at = time.monotonic() + watch_seconds
    while first and time.monotonic() < give_up_at:
        await asyncio.sleep(POLL_SECONDS)
        now = await database.read(_read_beats)
        if any(now[instance] != beat for instance, beat in first.items() if instance in now) or now.keys() - first:
            return True
        first = {instance: beat for instance, beat in first.items() if instance in now}
    return False


def _read_beats(connection: Connection) -> dict[int, int]:
    return {row.id: row.beat for row in connection.execute(select(instances.c.id, instances.c.beat))}


def _header(connection: Connection, totals: Totals) -> Header:
    return Header(
        schema=HEAD,
        gateway=__version__,
        made_at=time.time_ns() // 1_000_000,
        numbers=read_numbers(connection),
        tables=tuple(Part(table.name, columns_of(table), totals.rows[table.name]) for table in TABLES),
    )
