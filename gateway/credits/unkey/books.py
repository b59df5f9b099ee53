"""Our side of Unkey's keys in SQL: which key is which, its pool, what is in doubt. Each function is one transaction's
work on a SQLAlchemy connection."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)

from gateway.credits.instances import Orphan
from gateway.credits.ledger import append_entry, lock_key, now_ms
from gateway.credits.secrets import START_LENGTH, hash_secret
from gateway.credits.unkey.holds import UnkeyHold
from gateway.database.tables import HOLDS_PER_INSTANCE, doubts, instances, keys, retired_keys, unkey_holds
from gateway.errors import Conflict, Invalid, InvalidKey


@dataclass(frozen=True, slots=True)
class Account:
    """Whose secret it is. `number` is the key's row, `unkey_id` what Unkey calls it now. `is_retired`: it is being
    rotated, and the secret is the old one."""

    number: int
    key_id: str
    user_id: str
    unkey_id: str
    is_retired: bool = False


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


def find_account(connection: Connection, key_hash: bytes) -> Account | None:
    """None if the secret has never been seen. Raises InvalidKey if it was rotated away: Unkey is not to be asked, for
    it may go on taking credits for it."""
    row = find_row_by_hash(connection, key_hash)
    if row is not None:
        return Account(row.id, row.key_id, row.user_id, row.unkey_id)
    if connection.execute(select(exists().where(retired_keys.c.key_hash == key_hash))).scalar_one():
        raise InvalidKey
    return None


def insert_key(
    connection: Connection,
    secret: str,
    unkey_id: str,
    user_id: str,
    credits: int | None,
    name: str | None,
    expires_at: int | None,
) -> None:
    """Write down a key just made at Unkey, with its first credits (which are there already) as a `promo` entry."""
    hashed = hash_secret(secret.encode("utf-8"))
    insert_row(connection, unkey_id, hashed, secret[:START_LENGTH], user_id, name, expires_at)
    if credits:
        row = lock_row(connection, unkey_id)
        assert row is not None
        append_entry(
            connection,
            row,
            amount=credits,
            kind="promo",
            reason="first credits",
            reference=f"create:{row.key_id}",
            balance_after=credits,
        )


def insert_row(
    connection: Connection,
    unkey_id: str,
    key_hash: bytes,
    start: str,
    user_id: str,
    name: str | None,
    expires_at: int | None,
) -> None:
    connection.execute(
        insert(keys).values(
            key_id=unkey_id,
            unkey_id=unkey_id,
            key_hash=key_hash,
            start=start,
            user_id=user_id,
            name=name,
            balance=0,
            held=0,
            enabled=1,
            expires_at=expires_at,
            created_at=now_ms(),
        )
    )


def find_row(connection: Connection, key_id: str) -> Row[Any] | None:
    """The key of that id, ours or Unkey's present one; None for keys that Unkey does not keep."""
    return connection.execute(select(keys).where(_is_called(key_id))).first()


def lock_row(connection: Connection, key_id: str) -> Row[Any] | None:
    """The same, locked: see ledger.lock_key."""
    return lock_key(connection, _is_called(key_id))


def _is_called(key_id: str) -> ColumnElement[bool]:
    return keys.c.unkey_id.is_not(None) & ((keys.c.key_id == key_id) | (keys.c.unkey_id == key_id))


def find_by_number(connection: Connection, number: int) -> Row[Any]:
    """The key of that row, which is there for good."""
    return connection.execute(select(keys).where(keys.c.id == number)).one()


def find_row_by_hash(connection: Connection, key_hash: bytes) -> Row[Any] | None:
    """The key of this secret."""
    return connection.execute(select(keys).where(keys.c.key_hash == key_hash, keys.c.unkey_id.is_not(None))).first()


def find_rows(connection: Connection, unkey_ids: Sequence[str]) -> dict[str, Row[Any]]:
    """Rows by what Unkey calls the keys."""
    rows = connection.execute(select(keys).where(keys.c.unkey_id.in_(unkey_ids)))
    return {row.unkey_id: row for row in rows}


def read_asked(connection: Connection, number: int, but: int = 0) -> int:
    """Credits that open holds of the key, `but` one, have asked of Unkey and that are not in its pool yet."""
    mine = is_of(unkey_holds, number)
    query = select(func.coalesce(func.sum(unkey_holds.c.asked), 0)).where(mine, unkey_holds.c.id != but)
    return int(connection.execute(query).scalar_one())


def is_of(table: Table, number: int) -> ColumnElement[bool]:
    """Holds or doubts of the key. Those from before it was written down know it by its secret only, which may have been
    rotated away since."""
    hashes = union_all(
        select(keys.c.key_hash).where(keys.c.id == number),
        select(retired_keys.c.key_hash).where(retired_keys.c.key == number),
    )
    return or_(table.c.key == number, and_(table.c.key == 0, table.c.key_hash.in_(hashes)))


def _has(doubt: Any) -> ColumnElement[bool]:
    """The key that a doubt is about: `is_of` from the other side."""
    retired = select(retired_keys.c.key).where(retired_keys.c.key_hash == doubt.key_hash).correlate(doubts)
    seen_later = or_(keys.c.key_hash == doubt.key_hash, keys.c.id.in_(retired))
    return or_(keys.c.id == doubt.key, and_(doubt.key == 0, seen_later))


# Stopping and replacing keys


def revoke(connection: Connection, number: int) -> None:
    connection.execute(update(keys).where(keys.c.id == number, keys.c.revoked_at.is_(None)).values(revoked_at=now_ms()))


def enable(connection: Connection, number: int, enabled: bool) -> None:
    connection.execute(update(keys).where(keys.c.id == number).values(enabled=int(enabled)))


def retire(connection: Connection, number: int, unkey_id: str) -> None:
    """From here on the key's present secret is refused, whatever Unkey's caches say."""
    lock_key(connection, keys.c.id == number)
    known = connection.execute(select(retired_keys).where(retired_keys.c.unkey_id == unkey_id)).first()
    if known is None:
        key_hash = connection.execute(select(keys.c.key_hash).where(keys.c.id == number)).scalar_one()
        retired = {"unkey_id": unkey_id, "key": number, "key_hash": key_hash, "retired_at": now_ms()}
        connection.execute(insert(retired_keys).values(retired))
    nobody = hash_secret(secrets.token_bytes(32))
    connection.execute(update(keys).where(keys.c.id == number).values(key_hash=nobody))


def replace(connection: Connection, number: int, unkey_id: str, secret: str) -> None:
    """The key goes on under another name at Unkey, with another secret."""
    hashed = hash_secret(secret.encode("utf-8"))
    start = secret[:START_LENGTH]
    connection.execute(update(keys).where(keys.c.id == number).values(unkey_id=unkey_id, key_hash=hashed, start=start))


# Recovery and doubts


def read_orphans(connection: Connection, limit: int = 10_000) -> list[Orphan]:
    """Open holds that belong to no living instance."""
    alive = select(instances.c.id)
    query = select(unkey_holds).where((unkey_holds.c.id // HOLDS_PER_INSTANCE).not_in(alive)).limit(limit)
    return [
        Orphan(_hold(row), bool(row.answered) and not row.asked, bool(row.asked)) for row in connection.execute(query)
    ]


def list_doubts(connection: Connection, *, is_open: bool = True, limit: int = 1000) -> list[Doubt]:
    """Doubts, newest first."""
    query = _select_doubts()
    if is_open:
        query = query.where(doubts.c.resolution.is_(None))
    return [_doubt(row) for row in connection.execute(query.order_by(doubts.c.id.desc()).limit(limit))]


def find_doubt(connection: Connection, doubt_id: int) -> Doubt | None:
    row = connection.execute(_select_doubts().where(doubts.c.id == doubt_id)).first()
    return None if row is None else _doubt(row)


def resolve_doubt(connection: Connection, doubt_id: int, resolution: str) -> Doubt | None:
    """A person's word. `applied`: Unkey took the credits, so they go into the key's pool, for its next calls.
    `not-applied`: it did not, so nothing moves. None if there is no such doubt. Raises Conflict, Invalid."""
    row = connection.execute(select(doubts).where(doubts.c.id == doubt_id).with_for_update()).first()
    if row is None:
        return None
    if row.resolution not in {None, resolution}:
        raise Conflict(f"It was already resolved as {row.resolution}.")
    if row.resolution is None:
        if resolution == "applied":
            _fund(connection, row)
        connection.execute(
            update(doubts).where(doubts.c.id == doubt_id).values(resolution=resolution, resolved_at=now_ms())
        )
    return find_doubt(connection, doubt_id)


def _select_doubts() -> Select[Any]:
    """With the key's name, also where the key was seen only after its call."""
    return select(doubts, keys.c.key_id).select_from(doubts.join(keys, _has(doubts.c), isouter=True))


def _fund(connection: Connection, doubt: Row[Any]) -> None:
    key = lock_key(connection, _has(doubt))
    if key is None:
        raise Invalid(
            "The key has never been seen since, so there is no pool for its credits. Add them at Unkey and resolve this"
            " as not-applied.",
            errors={"resolution": "the key is unknown"},
        )
    connection.execute(update(keys).where(keys.c.id == key.id).values(balance=keys.c.balance + doubt.amount))
    if not doubt.key and key.created_at > doubt.created_at:
        append_entry(
            connection,
            key,
            amount=doubt.amount,
            kind="adjustment",
            reason="what Unkey had taken before the key was first seen",
            reference=f"first-seen:{key.unkey_id}:call_{doubt.id}",
            balance_after=None,
        )


def _hold(row: Row[Any]) -> UnkeyHold:
    hold = UnkeyHold(row.id, row.key, "", "", row.cost, row.key_hash)
    hold.route, hold.request_id = row.route, row.request_id
    hold.cause = "the gateway died before Unkey's answer was written down"
    return hold


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
