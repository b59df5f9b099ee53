"""Keys, balances and grants in SQL: everything but spending, which is batch.py's.

Each function is one transaction's work on a SQLAlchemy connection, for Database.transaction or Database.read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    update,
)

from gateway.credits import spend_caps
from gateway.credits.provider import CREDITS_MAX, NO_CHANGES, ApiKey, Balance, CapChanges, Entry
from gateway.credits.secrets import START_LENGTH, hash_secret, new_key_id
from gateway.database.insert import next_entry_id
from gateway.database.tables import entries, holds, keys
from gateway.errors import Conflict, Invalid


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def insert_key(
    connection: Connection,
    secret: str,
    user_id: str,
    credits: int | None,
    name: str | None,
    expires_at: int | None,
    permissions: Sequence[str] = (),
    caps: CapChanges = NO_CHANGES,
) -> ApiKey:
    """Write a new key with nothing on it (or unlimited), then its first credits as a `promo` entry of the ledger."""
    key_id = new_key_id()
    row = {
        "key_id": key_id,
        "key_hash": hash_secret(secret.encode("ascii")),
        "start": secret[:START_LENGTH],
        "user_id": user_id,
        "name": name,
        "balance": None if credits is None else 0,
        "held": 0,
        "enabled": 1,
        "expires_at": expires_at,
        "created_at": now_ms(),
        "permissions": " ".join(dict.fromkeys(permissions)),
    }
    number = connection.execute(insert(keys).values(row).returning(keys.c.id)).scalar_one()
    spend_caps.begin(connection, number, caps, now_ms())
    if credits:
        grant(connection, key_id, credits, "promo", "first credits", f"create:{key_id}")
    key = find_key(connection, key_id)
    assert key is not None
    return key


def find_key(connection: Connection, key_id: str) -> ApiKey | None:
    row = connection.execute(_KEY, {"key_id": key_id}).first()
    return None if row is None else _api_key(row)


def find_number(connection: Connection, key_id: str) -> int | None:
    """The key's row."""
    number: int | None = connection.execute(select(keys.c.id).where(keys.c.key_id == key_id)).scalar()
    return number


def find_key_by_hash(connection: Connection, key_hash: bytes) -> ApiKey | None:
    """The key of this secret, unless it is revoked."""
    row = connection.execute(_KEY_IN_USE, {"key_hash": key_hash}).first()
    return None if row is None else _api_key(row)


def list_keys(connection: Connection, user_id: str | None, after: str, limit: int) -> Sequence[ApiKey]:
    """Keys in the order of their ids, from behind `after`."""
    query = spend_caps.KEYS.where(keys.c.key_id > after).order_by(keys.c.key_id).limit(limit)
    if user_id is not None:
        query = query.where(keys.c.user_id == user_id)
    return [_api_key(row) for row in connection.execute(query)]


def count_keys(connection: Connection, user_id: str) -> int:
    """How many keys of the user are not revoked."""
    in_use = keys.c.user_id == user_id, keys.c.revoked_at.is_(None)
    return int(connection.execute(select(func.count()).select_from(keys).where(*in_use)).scalar_one())


def find_balance(connection: Connection, key_id: str) -> Balance | None:
    row = connection.execute(_BALANCE, {"key_id": key_id}).first()
    return None if row is None else Balance(row.key_id, row.user_id, _available(row.balance, row.held), row.held)


def revoke_key(connection: Connection, key_id: str) -> bool:
    """Stop the key for good. True if there is such a key, revoked now or before."""
    connection.execute(
        update(keys).where(keys.c.key_id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=now_ms())
    )
    return find_key(connection, key_id) is not None


def enable_key(connection: Connection, key_id: str, enabled: bool) -> bool:
    result = connection.execute(update(keys).where(keys.c.key_id == key_id).values(enabled=int(enabled)))
    return bool(result.rowcount)


def rotate_key(connection: Connection, key_id: str, secret: str) -> ApiKey | None:
    """Replace the secret; key_id, balance, holds and history stay. None if there is no such key in use."""
    connection.execute(
        update(keys)
        .where(keys.c.key_id == key_id, keys.c.revoked_at.is_(None))
        .values(key_hash=hash_secret(secret.encode("ascii")), start=secret[:START_LENGTH])
    )
    key = find_key(connection, key_id)
    return None if key is None or key.revoked_at is not None else key


def grant(connection: Connection, key_id: str, amount: int, kind: str, reason: str, reference: str) -> Entry:
    """Move credits onto (or, negative, off) a key, once per reference: a repeat returns the first entry.

    Raises Invalid for an amount that can't be, Conflict for a reference that was used for something else.
    """
    key = lock_key(connection, keys.c.key_id == key_id)
    if key is None:
        raise Invalid("There is no such key.", errors={"key_id": "unknown"})
    done = find_grant(connection, key, amount, kind, reference)
    if done is not None:
        return done
    if key.balance is None:
        raise Invalid("The key is unlimited.", errors={"key_id": "an unlimited key has no credits to add to"})
    _check_amount(amount, key.balance, key.held)
    after = key.balance + amount
    connection.execute(update(keys).where(keys.c.id == key.id).values(balance=after))
    return append_entry(
        connection, key, amount=amount, kind=kind, reason=reason, reference=reference, balance_after=after
    )


def history(connection: Connection, key_id: str, before: int | None, limit: int) -> Sequence[Entry]:
    """A key's entries, newest first, older than `before`: a walk along the chain of `previous`, by primary key."""
    page = _FIRST_PAGE if before is None else _NEXT_PAGE
    rows = connection.execute(page, {"key_id": key_id, "before": before, "limit": limit}).all()
    return [Entry(*row) for row in rows]  # by place: reading them by name took longer than finding them


def walk_from(start: Select[tuple[int | None]], *columns: Column[Any]) -> Select[Any]:
    """These columns of the entries along the chain, from the one that `start` finds. Made once, for making it takes
    longer than asking it.

    Each step looks up one id in a subquery of its own. As a join, PostgreSQL may choose to read the whole ledger for
    each step: it does on a table of which it has no statistics yet (73 ms a page of 6,000 entries, instead of 3).
    """
    first = start.add_columns(literal_column("1").label("step")).cte("walk", recursive=True)
    one = entries.alias("one")
    previous = select(one.c.previous).where(one.c.id == first.c[0]).scalar_subquery()
    more = first.c.step < bindparam("limit"), first.c[0].is_not(None)
    walk = first.union_all(select(previous, first.c.step + 1).where(*more))
    return select(*columns).join(walk, entries.c.id == walk.c[0]).order_by(walk.c.step)


_OF_KEY = keys.c.key_id == bindparam("key_id")
_KEY = spend_caps.KEYS.where(_OF_KEY)
_KEY_IN_USE = spend_caps.KEYS.where(keys.c.key_hash == bindparam("key_hash"), keys.c.revoked_at.is_(None))
_BALANCE = select(keys.c.key_id, keys.c.user_id, keys.c.balance, keys.c.held).where(_OF_KEY)
_ENTRY = [entries.c[field.name] for field in fields(Entry)]
_FIRST_PAGE = walk_from(select(keys.c.last_entry).where(_OF_KEY), *_ENTRY)
_BEFORE = entries.c.id == bindparam("before")
_PREVIOUS = select(entries.c.previous).join(keys, keys.c.id == entries.c.key).where(_BEFORE, _OF_KEY)
_NEXT_PAGE = walk_from(_PREVIOUS, *_ENTRY)


def _check_amount(amount: int, balance: int, held: int) -> None:
    if balance + amount > CREDITS_MAX:
        raise Invalid("Too many credits.", errors={"amount": f"a key may have {CREDITS_MAX} credits at most"})
    if balance - held + amount < 0:
        raise Invalid("Not so many are there.", errors={"amount": f"only {balance - held} credits are available"})


def append_entry(
    connection: Connection,
    key: Row[Any],
    *,
    amount: int,
    kind: str,
    reason: str,
    reference: str | None,
    balance_after: int | None,
) -> Entry:
    """Write a row of the ledger and make it the key's newest. The balance is the caller's to move, and the key must be
    locked (lock_key)."""
    number = next_entry_id(connection)
    row = {
        "id": number,
        "key": key.id,
        "previous": key.last_entry,
        "kind": kind,
        "amount": amount,
        "balance_after": balance_after,
        "reason": reason,
        "reference": reference,
        "created_at": now_ms(),
    }
    connection.execute(insert(entries).values(row))
    connection.execute(update(keys).where(keys.c.id == key.id).values(last_entry=number))
    return to_entry(connection.execute(select(entries).where(entries.c.id == number)).one())


def lock_key(connection: Connection, condition: ColumnElement[bool]) -> Row[Any] | None:
    """The key's row, as it is and stays until the transaction ends: whoever moves credits or writes an entry has it
    locked. (SQLite has one writer anyway, and is not asked.)"""
    return connection.execute(select(keys).where(condition).with_for_update()).first()


def find_grant(connection: Connection, key: Row[Any], amount: int, kind: str, reference: str) -> Entry | None:
    """The entry of that reference, if there is one. Raises Conflict where it was used for something else."""
    done = connection.execute(select(entries).where(entries.c.reference == reference)).first()
    if done is None:
        return None
    if (done.key, done.amount, done.kind) != (key.id, amount, kind):
        raise Conflict(f"The reference {reference!r} was already used for something else.")
    return to_entry(done)


def read_holds(connection: Connection, number: int, since: int) -> Sequence[Row[int, int]]:
    """Cost and time of the key's open holds that were taken since then. They are few: a scan is cheaper than an index
    on each."""
    query = select(holds.c.cost, holds.c.created_at).where(holds.c.key == number, holds.c.created_at >= since)
    return connection.execute(query).all()


def _available(balance: int | None, held: int) -> int | None:
    return None if balance is None else balance - held


def _api_key(row: Row[Any]) -> ApiKey:
    """Of a row of spend_caps.KEYS."""
    return ApiKey(
        key_id=row.key_id,
        user_id=row.user_id,
        name=row.name,
        start=row.start,
        available=_available(row.balance, row.held),
        held=row.held,
        enabled=bool(row.enabled),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        permissions=tuple(row.permissions.split()),
        spend_caps=spend_caps.of_row(row, now_ms()),
    )


def to_entry(row: Row[Any]) -> Entry:
    return Entry(
        id=row.id,
        kind=row.kind,
        amount=row.amount,
        balance_after=row.balance_after,
        route=row.route,
        request_id=row.request_id,
        reason=row.reason,
        reference=row.reference,
        created_at=row.created_at,
    )
