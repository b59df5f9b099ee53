"""Doubts in SQL: credits that Unkey may have taken for a call that was never served, and a person's word on them.

The first use of a key may be in doubt before our books have the key. Whether Unkey took those credits before or after
the count that the key's ledger begins with, no date tells: answers come in any order, and a doubt may be written down
long after its call. So where a person says that it took them, its count decides: what the ledger then lacks of it is
written as an entry. Each function is one transaction's work on a SQLAlchemy connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, or_, select, update

from gateway.credits.ledger import append_entry, lock_key, now_ms
from gateway.credits.unkey import books, grants
from gateway.database.tables import doubts, entries, keys, retired_keys
from gateway.errors import Conflict, Invalid


@dataclass(frozen=True, slots=True)
class Doubt:
    """Credits that Unkey may have taken for a call that was never served. `key_id` None: the key had never been seen.
    `resolution` None: still open. Times are Unix milliseconds."""

    id: int
    key_id: str | None
    amount: int
    route: str
    request_id: str
    cause: str
    created_at: int
    resolution: str | None
    resolved_at: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """A key as our books have it, all that Unkey's count has to do with. `pool`: with the doubt's credits. `lack_max`:
    what the ledger can lack of first uses at most. `is_moving`: Unkey's count may show what is under way or not."""

    unkey_id: str
    last_entry: int | None
    pool: int
    asked: int
    on_the_way: int
    lack_max: int
    is_moving: bool


@dataclass(frozen=True, slots=True)
class Look:
    """The books, and then Unkey's count (None: the key is unlimited, or gone). `total`: of the ledger."""

    standing: Standing
    total: int
    remaining: int | None

    @property
    def lack(self) -> int:
        """What the ledger lacks once the doubt's credits are in the pool. A count that lags makes it too much, never
        too little."""
        if self.remaining is None:
            return 0
        our = self.standing
        there_and_here = self.remaining + our.pool + our.asked + our.on_the_way
        return max(0, min(our.lack_max, there_and_here - self.total))


class Moved(Exception):
    """The books are not what they were when Unkey was asked."""


def list_doubts(connection: Connection, *, is_open: bool = True, limit: int = 1000) -> list[Doubt]:
    """Doubts, newest first."""
    query = _select()
    if is_open:
        query = query.where(doubts.c.resolution.is_(None))
    return [_doubt(row) for row in connection.execute(query.order_by(doubts.c.id.desc()).limit(limit))]


def find(connection: Connection, doubt_id: int) -> Doubt | None:
    row = connection.execute(_select().where(doubts.c.id == doubt_id)).first()
    return None if row is None else _doubt(row)


def read_open(connection: Connection, number: int) -> int:
    """Credits of the key that are in doubt."""
    mine = books.is_of(doubts, number), doubts.c.resolution.is_(None)
    return int(connection.execute(select(func.coalesce(func.sum(doubts.c.amount), 0)).where(*mine)).scalar_one())


def read_standing(connection: Connection, doubt_id: int) -> tuple[Standing, int] | None:
    """The doubt's key, and the sum of its ledger. None if no entry can be lacking, whatever Unkey's count is."""
    row = connection.execute(select(doubts).where(doubts.c.id == doubt_id, doubts.c.resolution.is_(None))).first()
    key = None if row is None else connection.execute(select(keys).where(_has(row))).first()
    if row is None or key is None:
        return None
    standing = _read_standing(connection, row, key)
    if standing is None:
        return None
    total = select(func.coalesce(func.sum(entries.c.amount), 0)).where(entries.c.key == key.id)
    return standing, int(connection.execute(total).scalar_one())


def resolve(connection: Connection, doubt_id: int, resolution: str, look: Look | None) -> Doubt | None:
    """A person's word. `applied`: Unkey took the credits, so they go into the key's pool, for its next calls.
    `not-applied`: it did not, so nothing moves. None if there is no such doubt. Raises Conflict, Invalid, Moved."""
    row = connection.execute(select(doubts).where(doubts.c.id == doubt_id).with_for_update()).first()
    if row is None:
        return None
    if row.resolution not in {None, resolution}:
        raise Conflict(f"It was already resolved as {row.resolution}.")
    if row.resolution is None:
        if resolution == "applied":
            _fund(connection, row, look)
        connection.execute(
            update(doubts).where(doubts.c.id == doubt_id).values(resolution=resolution, resolved_at=now_ms())
        )
    return find(connection, doubt_id)


def _fund(connection: Connection, doubt: Row[Any], look: Look | None) -> None:
    key = lock_key(connection, _has(doubt))
    if key is None:
        raise Invalid(
            "The key has never been seen since, so there is no pool for its credits. Add them at Unkey and resolve this"
            " as not-applied.",
            errors={"resolution": "the key is unknown"},
        )
    if _read_standing(connection, doubt, key) != (look.standing if look is not None else None):
        raise Moved
    connection.execute(update(keys).where(keys.c.id == key.id).values(balance=keys.c.balance + doubt.amount))
    if look is not None and look.lack:
        append_entry(
            connection,
            key,
            amount=look.lack,
            kind="adjustment",
            reason="what Unkey had taken before the key was first seen",
            reference=_reference(key.unkey_id, doubt.id),
            balance_after=None,
        )


def _read_standing(connection: Connection, doubt: Row[Any], key: Row[Any]) -> Standing | None:
    lack_max = min(doubt.amount, _read_lack_max(connection, doubt, key))
    if lack_max <= 0:
        return None
    asked = books.read_asked(connection, key.id)
    on_the_way, is_sending = grants.read_on_the_way(connection, key.id)
    return Standing(
        unkey_id=key.unkey_id,
        last_entry=key.last_entry,
        pool=key.balance + doubt.amount,
        asked=asked,
        on_the_way=on_the_way,
        lack_max=lack_max,
        is_moving=asked > 0 or is_sending,
    )


def _read_lack_max(connection: Connection, doubt: Row[Any], key: Row[Any]) -> int:
    """What Unkey took in first uses, less what has been written of it. Not only a first use counts: while another doubt
    was open whose credits the ledger has, the ledger seemed to lack so much less."""
    decided = or_(doubts.c.resolution == "applied", doubts.c.id == doubt.id)
    applied = connection.execute(select(doubts).where(books.is_of(doubts, key.id), decided)).all()
    taken = sum(int(row.amount) for row in applied if not row.key)
    if not taken:
        return 0
    retired = connection.execute(select(retired_keys.c.unkey_id).where(retired_keys.c.key == key.id)).scalars()
    names = [key.unkey_id, *retired]
    references = [_reference(name, row.id) for name in names for row in applied]
    written = select(func.coalesce(func.sum(entries.c.amount), 0)).where(entries.c.reference.in_(references))
    return taken - int(connection.execute(written).scalar_one())


def _reference(unkey_id: str, doubt_id: int) -> str:
    return f"first-seen:{unkey_id}:call_{doubt_id}"


def _has(doubt: Any) -> ColumnElement[bool]:
    """The key that a doubt is about: `books.is_of` from the other side."""
    retired = select(retired_keys.c.key).where(retired_keys.c.key_hash == doubt.key_hash).correlate(doubts)
    seen_later = or_(keys.c.key_hash == doubt.key_hash, keys.c.id.in_(retired))
    return or_(keys.c.id == doubt.key, and_(doubt.key == 0, seen_later))


def _select() -> Select[Any]:
    """With the key's name, also where the key was seen only after its call."""
    return select(doubts, keys.c.key_id).select_from(doubts.join(keys, _has(doubts.c), isouter=True))


def _doubt(row: Row[Any]) -> Doubt:
    return Doubt(
        id=row.id,
        key_id=row.key_id,
        amount=row.amount,
        route=row.route,
        request_id=row.request_id,
        cause=row.cause,
        created_at=row.created_at,
        resolution=row.resolution,
        resolved_at=row.resolved_at,
    )
