"""How far an import has got, in the transaction that got there: a row of `leases` that is gone when all is well.

Its `owner` is the checksum of the file, its `position` the number of rows that are in. As long as it is there nobody
may use the database for anything else.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from gateway.database.billing_tables import leases
from gateway.database.engine import DatabaseError
from gateway.database.moving.failure import MovingFailed

NAME = "import"


@dataclass(frozen=True, slots=True)
class Bookmark:
    """`rows` of the file with that checksum are in the database."""

    sha256: str
    rows: int


def find_bookmark(connection: Connection) -> Bookmark | None:
    row = connection.execute(select(leases.c.owner, leases.c.position).where(leases.c.name == NAME)).first()
    return None if row is None else Bookmark(row.owner, row.position)


def refuse_unfinished(connection: Connection) -> None:
    """Raises DatabaseError where only a part of an export is in the database."""
    bookmark = find_bookmark(connection)
    if bookmark is not None:
        raise DatabaseError(
            f"an import into it is not finished ({bookmark.rows} rows are in): run `gateway import` with the same file"
            " again, or begin with an empty database"
        )


def begin(connection: Connection, sha256: str) -> None:
    connection.execute(insert(leases).values(name=NAME, owner=sha256, until=0, done_at=0, position=0))


def move(connection: Connection, there: Bookmark, rows: int) -> None:
    """From `there` on to `rows`. Raises MovingFailed where somebody else has moved it meanwhile."""
    ours = leases.c.name == NAME, leases.c.owner == there.sha256, leases.c.position == there.rows
    if not connection.execute(update(leases).where(*ours).values(position=rows)).rowcount:
        raise MovingFailed("another import into this database is under way")


def end(connection: Connection, there: Bookmark) -> None:
    move(connection, there, there.rows)
    connection.execute(delete(leases).where(leases.c.name == NAME))
