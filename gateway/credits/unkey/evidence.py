"""What our books say of a grant of which nobody knows whether it took effect at Unkey. In SQL.

Unkey's count was read before the grant was sent, and is read again: it has moved by what was taken for calls, and by
the grant or not. All that Unkey takes goes through the key's pool here, so what it took is known to the credit; but its
count may lag behind, at either reading, by what it took shortly before.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, exists, func, or_, select

from gateway.credits.ledger import now_ms
from gateway.credits.provider import CREDITS_MAX
from gateway.credits.unkey import books
from gateway.database.tables import doubts, entries, grants, keys, unkey_holds

LEAVES_POOL = ("spend", "clawback")
"""Entries of what was in the pool before."""
LATELY_MAX = 10_000
"""Entries of a key that are looked at to see what it has spent lately."""


def read_debited(connection: Connection, row: Row[Any]) -> int:
    """Debits at Unkey since the grant was sent: growth of the pool + what left it, for all of them go through it. Spent
    credits leave it, and so does the part of a clawback that Unkey is not asked for."""
    key = connection.execute(select(keys).where(keys.c.id == row.key)).one()
    since = entries.c.key == row.key, entries.c.id > (row.last_entry_before or 0)
    left = connection.execute(
        select(func.coalesce(-func.sum(entries.c.amount - func.coalesce(grants.c.amount, 0)), 0))
        .select_from(entries)
        .join(grants, grants.c.entry == entries.c.id, isouter=True)
        .where(*since, entries.c.kind.in_(LEAVES_POOL))
    ).scalar_one()
    return int(key.balance - row.pool_before + left)


def read_uncertain(connection: Connection, row: Row[Any], lag_ms: int) -> int:
    """What Unkey may have taken besides, or have counted late: at most. It may lag behind by `lag_ms`."""
    key = connection.execute(select(keys).where(keys.c.id == row.key)).one()
    doubtful = _read_doubtful(connection, key, row.sent_at, lag_ms)
    before = _read_lately(connection, row.last_entry_before, row.pool_before, row.sent_at - lag_ms)
    now = _read_lately(connection, key.last_entry, key.balance, now_ms() - lag_ms) + read_moving(connection, key)
    return int(doubtful + before + (row.uncertain_before or 0) + now)


def _read_doubtful(connection: Connection, key: Row[Any], sent_at: int, lag_ms: int) -> int:
    """Calls of which nobody knew whether Unkey took them: since the grant was sent, or so shortly before that the count
    need not have shown it; and older ones that were decided since, for their credits came into the pool only then."""
    mine = books.is_of(doubts, key.id)
    when = or_(doubts.c.created_at >= sent_at - lag_ms, doubts.c.resolved_at >= sent_at)
    query = select(func.coalesce(func.sum(doubts.c.amount), 0)).where(mine, when)
    return int(connection.execute(query).scalar_one())


def has_open(connection: Connection, number: int, since_ms: int, until_ms: int) -> bool:
    """Whether a call that began between these times has asked Unkey for credits that are not in the pool yet."""
    mine = books.is_of(unkey_holds, number)
    asking = unkey_holds.c.asked > 0, unkey_holds.c.created_at.between(since_ms, until_ms)
    return bool(connection.execute(select(exists().where(mine, *asking))).scalar_one())


def read_moving(connection: Connection, key: Row[Any]) -> int:
    """What open holds of the key have asked of Unkey: its count may show it or not."""
    return books.read_asked(connection, key.id) + int(key.held)


def _read_lately(connection: Connection, newest: int | None, pool: int, since_ms: int) -> int:
    """What Unkey can have taken, at most, for calls that have ended since: what was spent, and what is in the pool, for
    all of it may have come then. `newest` is where the key's entries end."""
    columns = entries.c.id, entries.c.previous, entries.c.kind, entries.c.amount
    lately = select(*columns).where(entries.c.created_at >= since_ms)
    chain = lately.where(entries.c.id == newest).cte("chain", recursive=True)
    chain = chain.union_all(lately.where(entries.c.id == chain.c.previous))
    found = connection.execute(select(chain).limit(LATELY_MAX)).all()
    left = [row.amount for row in found if row.kind in LEAVES_POOL]
    if len(found) == LATELY_MAX:
        return CREDITS_MAX
    return pool - sum(left) if left else 0
