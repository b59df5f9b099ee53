"""What is sold and taken back, in SQL: grants and clawbacks inside a sale's transaction, and whether the books agree.

Each function is one transaction's work on a SQLAlchemy connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from gateway.credits import ledger
from gateway.credits.provider import Drift, Entry, Progress
from gateway.database.tables import entries, keys
from gateway.errors import Conflict, Invalid


def grant(connection: Connection, key_id: str, amount: int, kind: str, reason: str, reference: str) -> Entry:
    """As ledger.grant; a revoked key is Invalid, unless it has had this grant already."""
    key = find_key(connection, key_id)
    if key.revoked_at is not None and find_entry(connection, key, reference, kind) is None:
        raise revoked()
    return ledger.grant(connection, key_id, amount, kind, reason, reference)


def claw(connection: Connection, key_id: str, amount: int, reason: str, reference: str) -> int:
    """Take what is available, `amount` at most. Also from a revoked key: its books go on. Once per reference; that
    nothing was there is an entry too."""
    key = find_key(connection, key_id)
    done = find_entry(connection, key, reference, "clawback")
    if done is not None:
        return -int(done.amount)
    if key.balance is None:
        raise unlimited()
    taken = min(amount, key.balance - key.held)
    connection.execute(update(keys).where(keys.c.id == key.id).values(balance=key.balance - taken))
    ledger.append_entry(
        connection,
        key,
        amount=-taken,
        kind="clawback",
        reason=reason,
        reference=reference,
        balance_after=key.balance - taken,
    )
    return int(taken)


def find_progress(connection: Connection, reference: str) -> Progress | None:
    """In our own books an entry is all there is to it."""
    found = connection.execute(select(entries.c.id).where(entries.c.reference == reference)).first()
    return None if found is None else Progress("applied")


def list_drift(connection: Connection) -> Sequence[Drift]:
    """Keys whose balance is not the sum of their entries. None, unless somebody else wrote to the database."""
    total = func.coalesce(func.sum(entries.c.amount), 0)
    query = (
        select(keys.c.key_id, keys.c.balance, total.label("total"))
        .join(entries, entries.c.key == keys.c.id, isouter=True)
        .where(keys.c.balance.is_not(None), keys.c.unkey_id.is_(None))
        .group_by(keys.c.id, keys.c.key_id, keys.c.balance)
        .having(keys.c.balance != total)
    )
    return [Drift(row.key_id, int(row.total), row.balance) for row in connection.execute(query)]


def find_key(connection: Connection, key_id: str) -> Row[Any]:
    """The key's row, locked. Raises Invalid."""
    key = ledger.lock_key(connection, keys.c.key_id == key_id)
    if key is None:
        raise unknown()
    return key


def find_entry(connection: Connection, key: Row[Any], reference: str, kind: str) -> Row[Any] | None:
    """The key's entry of that reference. Raises Conflict where it was used for something else."""
    done = connection.execute(select(entries).where(entries.c.reference == reference)).first()
    if done is not None and (done.key, done.kind) != (key.id, kind):
        raise Conflict(f"The reference {reference!r} was already used for something else.")
    return done


def unknown() -> Invalid:
    return Invalid("There is no such key.", errors={"key_id": "unknown"})


def revoked() -> Invalid:
    return Invalid("The key is revoked.", errors={"key_id": "a revoked key gets no credits"})


def unlimited() -> Invalid:
    return Invalid("The key is unlimited.", errors={"key_id": "an unlimited key has no credits"})
