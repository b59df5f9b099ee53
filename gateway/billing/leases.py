"""Work that one process at a time does, in SQL.

A lease ends by itself, so a process that dies with it holds nobody up for long. Wall clocks are compared; where they
disagree two processes may do the same work at once, which everything here stands: leases save work, SQL keeps books.
"""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from gateway.credits.ledger import now_ms
from gateway.database.billing_tables import leases
from gateway.database.insert import insert_once


def take(connection: Connection, name: str, owner: str, *, for_ms: int, every_ms: int = 0) -> bool:
    """Have the lease for that time. False: somebody else has it, or the work was done less than `every_ms` ago."""
    insert_once(connection, leases, {"name": name, "owner": "", "until": 0, "done_at": 0, "position": 0})
    now = now_ms()
    is_free = leases.c.name == name, leases.c.until <= now, leases.c.done_at <= now - every_ms
    result = connection.execute(update(leases).where(*is_free).values(owner=owner, until=now + for_ms))
    return bool(result.rowcount)


def give_back(connection: Connection, name: str, owner: str, *, is_done: bool) -> None:
    """The work is over; with `is_done` it need not be done again for a while."""
    values = {"until": 0, "done_at": now_ms()} if is_done else {"until": 0}
    connection.execute(update(leases).where(leases.c.name == name, leases.c.owner == owner).values(**values))


def read_position(connection: Connection, name: str) -> int:
    """How far the work got; 0 where it never began."""
    return int(connection.execute(select(leases.c.position).where(leases.c.name == name)).scalar() or 0)


def move_position(connection: Connection, name: str, position: int) -> None:
    connection.execute(update(leases).where(leases.c.name == name).values(position=position))
