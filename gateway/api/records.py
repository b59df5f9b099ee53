"""Requests that came with an Idempotency-Key, in SQL. Each function is one transaction's work on a connection.

    (none) ──begin──▶ owned ──finish──▶ answered ──KEEP_MS──▶ (none)
                       ▲ └──owner dead, or gave up──┐
                       └──────────begin─────────────┘

`owner` is a random word of the one who works on it. Whoever finds that it is not theirs any more has been taken for
dead, and must not answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from gateway.database.tables import requests

KEEP_MS = 24 * 3_600_000
IDENTITY_ROWS_MAX = 10_000
"""Of one caller. Beyond it the oldest are forgotten before their time."""
PURGE_ROWS = 100


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a request that came before. `status` None: it has no answer yet."""

    fingerprint: bytes
    owned_until: int
    key_id: str | None
    status: int | None
    answer: bytes | None


def begin(
    connection: Connection,
    lookup: bytes,
    identity: bytes,
    fingerprint: bytes,
    owner: bytes,
    now: int,
    lease_ms: int,
) -> Record | None:
    """Make the request `owner`'s own, if it is new or its owner is dead and it asks the same.

    Returns what was there before, None for nothing. It is `owner`'s if that is None, or has no status, the same
    fingerprint, and an `owned_until` that has passed.
    """
    _purge(connection, now)
    row = connection.execute(select(requests).where(requests.c.lookup == lookup).with_for_update()).first()
    if row is not None and row.created_at < now - KEEP_MS:
        connection.execute(delete(requests).where(requests.c.lookup == lookup))
        row = None
    if row is None:
        _make_room(connection, identity)
        values = {"identity": identity, "fingerprint": fingerprint, "owner": owner, "created_at": now}
        connection.execute(insert(requests).values(lookup=lookup, owned_until=now + lease_ms, **values))
        return None
    record = Record(row.fingerprint, row.owned_until, row.key_id, row.status, row.answer)
    if record.status is None and record.owned_until <= now and record.fingerprint == fingerprint:
        connection.execute(
            update(requests).where(requests.c.lookup == lookup).values(owner=owner, owned_until=now + lease_ms)
        )
    return record


def renew(connection: Connection, lookup: bytes, owner: bytes, owned_until: int) -> bool:
    """Say that the owner lives (or, with a time in the past, that it gives up). False if it is not the owner."""
    return _write(connection, lookup, owner, {"owned_until": owned_until})


def note_key(connection: Connection, lookup: bytes, owner: bytes, key_id: str) -> bool:
    """Write down which key the request has made. False if `owner` is not its owner any more."""
    return _write(connection, lookup, owner, {"key_id": key_id})


def finish(connection: Connection, lookup: bytes, owner: bytes, status: int, answer: bytes) -> bool:
    """Write down the answer. False if `owner` is not its owner any more."""
    return _write(connection, lookup, owner, {"status": status, "answer": answer, "owner": None})


def _write(connection: Connection, lookup: bytes, owner: bytes, values: dict[str, object]) -> bool:
    mine = requests.c.lookup == lookup, requests.c.owner == owner
    return bool(connection.execute(update(requests).where(*mine).values(**values)).rowcount)


def _purge(connection: Connection, now: int) -> None:
    """Forget what is old, some of it at each look: what comes in goes out."""
    old = select(requests.c.lookup).where(requests.c.created_at < now - KEEP_MS).limit(PURGE_ROWS)
    old = old.with_for_update(skip_locked=True)
    connection.execute(delete(requests).where(requests.c.lookup.in_(old)))


def _make_room(connection: Connection, identity: bytes) -> None:
    mine = requests.c.identity == identity
    count = connection.execute(select(func.count()).select_from(requests).where(mine)).scalar_one()
    if count >= IDENTITY_ROWS_MAX:
        oldest = select(requests.c.lookup).where(mine).order_by(requests.c.created_at).limit(PURGE_ROWS)
        oldest = oldest.with_for_update(skip_locked=True)
        connection.execute(delete(requests).where(requests.c.lookup.in_(oldest)))
