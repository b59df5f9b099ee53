"""Keys that were made at Unkey, written down when they are seen first. In SQL; each function is one transaction's work.

What a key had when it was first seen is an entry of the ledger, `first-seen:…`: without it the books of its calls would
begin below 0. Several processes may see a key first at once, and their answers may come in any order; the one that
Unkey gave first tells of the most credits, so the entry is made up to that.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, exists, func, select, update

from gateway.credits.ledger import append_entry
from gateway.credits.unkey import books
from gateway.credits.unkey.books import Account
from gateway.database.tables import entries, grants, keys, retired_keys


def adopt(connection: Connection, key_hash: bytes, unkey_id: str, user_id: str, opening: int | None) -> Account | None:
    """The account of a key that Unkey vouches for, written down if it is seen first now.

    `opening` is what it had there before the call that shows it first; None if unlimited, or if it was seen before.
    None: the key was rotated, and Unkey's caches don't know it yet.
    """
    row = books.lock_row(connection, unkey_id)  # first: a rotation may be under way
    retired = connection.execute(select(retired_keys.c.key).where(retired_keys.c.unkey_id == unkey_id)).first()
    if retired is not None:
        return _find_replaced(connection, retired.key, unkey_id)
    if row is None:
        books.insert_row(connection, unkey_id, key_hash, "", user_id or unkey_id, None, None)
        row = books.lock_row(connection, unkey_id)
        assert row is not None
    owner = user_id or row.user_id
    connection.execute(update(keys).where(keys.c.id == row.id).values(key_hash=key_hash, user_id=owner))
    if opening and not row.start:  # a key that was made here has a start
        _open(connection, row, opening)
    return Account(row.id, row.key_id, owner, unkey_id)


def _find_replaced(connection: Connection, number: int, unkey_id: str) -> Account | None:
    """Until Unkey is asked for the new secret, what it takes from the old one is missing from what the new one gets."""
    row = connection.execute(select(keys).where(keys.c.id == number, keys.c.unkey_id == unkey_id)).first()
    return None if row is None else Account(row.id, row.key_id, row.user_id, unkey_id, is_retired=True)


def _open(connection: Connection, row: Row[Any], opening: int) -> None:
    """Write what the key had, or what is lacking of it."""
    mine = entries.c.reference.startswith(f"first-seen:{row.unkey_id}", autoescape=True)
    referred = entries.c.reference.is_not(None)  # said so that SQLite reads an index, and not every spend there was
    known, count = connection.execute(
        select(func.coalesce(func.sum(entries.c.amount), 0), func.count()).where(mine, referred)
    ).one()
    was_granted = connection.execute(select(exists().where(grants.c.key == row.id))).scalar_one()
    known = int(known)
    if opening > known and not was_granted:
        append_entry(
            connection,
            row,
            amount=opening - known,
            kind="adjustment",
            reason="what Unkey had when the key was first seen",
            reference=f"first-seen:{row.unkey_id}" + (f":{count}" if count else ""),
            balance_after=None if count else opening,
        )
