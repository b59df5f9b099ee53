"""What is sold and taken back with Unkey as the provider, in SQL. Unkey hears of it by the outbox.

A clawback takes from the key's allotment here first, at once; the rest is a negative grant, and when it is sent, as
much of it is asked for as Unkey has (its decrement stops at 0 and does not say by how much it fell short). What was not
there any more comes back into the ledger as an entry `short:<reference>`.

Each function is one transaction's work on a SQLAlchemy connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from gateway.credits.ledger import append_entry, now_ms, to_entry
from gateway.credits.provider import Drift, Entry, Progress
from gateway.credits.sales import find_entry, revoked, unknown
from gateway.credits.unkey import books
from gateway.credits.unkey.grants import UNSETTLED
from gateway.credits.unkey.remote_keys import RemoteKey
from gateway.database.tables import entries, grants, keys
from gateway.errors import Conflict


def grant(connection: Connection, key_id: str, amount: int, kind: str, reason: str, reference: str) -> Entry:
    """Write the entry and put its grant on the way, once per reference."""
    key = _find_key(connection, key_id)
    done = find_entry(connection, key, reference, kind)
    if done is not None:
        if done.amount != amount:
            raise Conflict(f"The reference {reference!r} was already used for something else.")
        return to_entry(done)
    if key.revoked_at is not None:
        raise revoked()
    entry = append_entry(
        connection, key, amount=amount, kind=kind, reason=reason, reference=reference, balance_after=None
    )
    _send(connection, key, entry, amount)
    return entry


def claw(connection: Connection, key_id: str, amount: int, reason: str, reference: str) -> int:
    """Take from the allotment what it has, and put the rest on its way as a negative grant. Once per reference."""
    key = _find_key(connection, key_id)
    done = find_entry(connection, key, reference, "clawback")
    if done is not None:
        return -int(done.amount)
    here = min(amount, key.balance - key.held)
    connection.execute(update(keys).where(keys.c.id == key.id).values(balance=key.balance - here))
    entry = append_entry(
        connection, key, amount=-amount, kind="clawback", reason=reason, reference=reference, balance_after=None
    )
    if amount > here:
        _send(connection, key, entry, here - amount)
    return amount


def find_progress(connection: Connection, reference: str) -> Progress | None:
    """See CreditsProvider.progress_in. An entry without a grant went no further than our books."""
    query = (
        select(grants.c.state, grants.c.amount, entries.c.kind)
        .select_from(entries)
        .join(grants, grants.c.entry == entries.c.id, isouter=True)
        .where(entries.c.reference == reference)
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    if row.state is None:
        return Progress("applied")
    shortfall = 0
    if row.kind == "clawback":
        shortfall = -row.amount if row.state == "failed" else _read_short(connection, reference)
    return Progress(row.state.replace("_", "-"), shortfall)


def find_drift(connection: Connection, page: Sequence[RemoteKey]) -> list[Drift]:
    """Of these keys as Unkey has them, those of which our books say other."""
    return [drift for drift in compare(connection, page) if drift.ledger != drift.kept]


def compare(connection: Connection, page: Sequence[RemoteKey]) -> list[Drift]:
    """These keys as Unkey has them and as our books do, where both know them and they are not unlimited."""
    rows = {row.id: row for row in books.find_rows(connection, [remote.key_id for remote in page]).values()}
    there = {remote.key_id: remote.credits for remote in page if remote.credits is not None}
    on_the_way = _sums(connection, grants.c.key, grants.c.amount, grants.c.state.in_(UNSETTLED), list(rows))
    totals = _sums(connection, entries.c.key, entries.c.amount, entries.c.key.is_not(None), list(rows))
    found = []
    for number, row in rows.items():
        if row.unkey_id in there:
            kept = there[row.unkey_id] + row.balance + books.read_asked(connection, number)
            found.append(Drift(row.key_id, totals.get(number, 0) - on_the_way.get(number, 0), kept))
    return found


def _sums(connection: Connection, key: Any, amount: Any, which: Any, numbers: list[int]) -> dict[int, int]:
    query = select(key, func.sum(amount)).where(which, key.in_(numbers)).group_by(key)
    return {int(number): int(total) for number, total in connection.execute(query)}


def _send(connection: Connection, key: Row[Any], entry: Entry, amount: int) -> None:
    now = now_ms()
    row = {"key": key.id, "entry": entry.id, "amount": amount, "state": "pending", "attempts": 0}
    connection.execute(insert(grants).values(**row, due_at=now, created_at=now, updated_at=now))


def _read_short(connection: Connection, reference: str) -> int:
    query = select(entries.c.amount).where(entries.c.reference == f"short:{reference}")
    return int(connection.execute(query).scalar() or 0)


def _find_key(connection: Connection, key_id: str) -> Row[Any]:
    key = books.lock_row(connection, key_id)
    if key is None:
        raise unknown()
    return key
