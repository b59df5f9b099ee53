"""Our side of Unkey's keys in SQL: which key is which, whose holds are open, how keys are stopped and replaced. Each
function is one transaction's work on a SQLAlchemy connection."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
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

from gateway.credits import ledger, spend_caps
from gateway.credits.instances import Orphan
from gateway.credits.ledger import append_entry, lock_key, now_ms
from gateway.credits.provider import CapChanges, SpendCaps
from gateway.credits.secrets import START_LENGTH, hash_secret
from gateway.credits.unkey.holds import UnkeyHold
from gateway.database.tables import HOLDS_PER_INSTANCE, instances, keys, retired_keys, unkey_holds
from gateway.errors import InvalidKey


@dataclass(frozen=True, slots=True)
class Account:
    """Whose secret it is. `number` is the key's row, `unkey_id` what Unkey calls it now. `is_retired`: it is being
    rotated, and the secret is the old one."""

    number: int
    key_id: str
    user_id: str
    unkey_id: str
    is_retired: bool = False


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
    caps: CapChanges,
) -> SpendCaps:
    """Write down a key just made at Unkey, with its first credits (which are there already) as a `promo` entry."""
    hashed = hash_secret(secret.encode("utf-8"))
    insert_row(connection, unkey_id, hashed, secret[:START_LENGTH], user_id, name, expires_at)
    row = lock_row(connection, unkey_id)
    assert row is not None
    spend_caps.begin(connection, row.id, caps, ledger.now_ms())
    if credits:
        append_entry(
            connection,
            row,
            amount=credits,
            kind="promo",
            reason="first credits",
            reference=f"create:{row.key_id}",
            balance_after=credits,
        )
    return spend_caps.read_one(connection, find_by_number(connection, row.id), ledger.now_ms())


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


def read_holds(connection: Connection, number: int, since: int) -> Sequence[Row[int, int]]:
    """Cost and time of the open holds that name the key and were taken since then."""
    mine = unkey_holds.c.key == number, unkey_holds.c.created_at >= since
    return connection.execute(select(unkey_holds.c.cost, unkey_holds.c.created_at).where(*mine)).all()


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


# Recovery


def read_orphans(connection: Connection, limit: int = 10_000) -> list[Orphan]:
    """Open holds that belong to no living instance."""
    alive = select(instances.c.id)
    query = select(unkey_holds).where((unkey_holds.c.id // HOLDS_PER_INSTANCE).not_in(alive)).limit(limit)
    return [
        Orphan(_hold(row), bool(row.answered) and not row.asked, bool(row.asked)) for row in connection.execute(query)
    ]


def _hold(row: Row[Any]) -> UnkeyHold:
    hold = UnkeyHold(row.id, row.key, "", "", row.cost, row.key_hash)
    hold.route, hold.request_id, hold.taken_at = row.route, row.request_id, row.created_at
    hold.cause = "the gateway died before Unkey's answer was written down"
    return hold
