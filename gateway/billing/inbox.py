"""What Stripe said, in SQL: stored as it came, worked on later by whichever process is there first.

    new ──done──▶ done
     │ └─failed─▶ new, due later ──too often──▶ dead (a person is told)
     └─ nothing that we handle ─▶ ignored

Each function is one transaction's work on a SQLAlchemy connection.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update

from gateway.credits.ledger import now_ms
from gateway.database.billing_tables import stripe_events
from gateway.database.insert import insert_once
from gateway.errors import Conflict

logger = logging.getLogger("gateway.billing")

DEAD_AFTER = 25
"""Attempts. With the waits between them that is half a day; the reconciler goes on looking meanwhile, and after."""
WAIT_SECONDS_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """One message of Stripe's. `object_id` is the checkout (cs_…) or the payment (pi_…) that it is about, empty where
    it is about something else. Times are Unix milliseconds."""

    id: str
    type: str
    object_id: str
    created_at: int
    state: str = "new"
    attempts: int = 0
    cause: str | None = None
    received_at: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """Everything that was said of one object, ours until the lease ends. One look at the object answers all of it."""

    object_id: str
    ids: tuple[str, ...]
    attempts: int


def keep(connection: Connection, event: StripeEvent, payload: bytes) -> bool:
    """Store what came. False if it was here already."""
    now = now_ms()
    row = {
        "id": event.id,
        "type": event.type,
        "object_id": event.object_id,
        "payload": payload,
        "state": "new" if event.object_id else "ignored",
        "attempts": 0,
        "due_at": now,
        "created_at": event.created_at,
        "received_at": now,
    }
    return insert_once(connection, stripe_events, row)


def is_due(connection: Connection) -> bool:
    due = select(stripe_events.c.id).where(stripe_events.c.state == "new", stripe_events.c.due_at <= now_ms())
    return connection.execute(due.limit(1)).first() is not None


def claim(connection: Connection, owner: str, until: int, limit: int) -> Sequence[Work]:
    """What is due, by object; nobody else gets it until that time."""
    due = stripe_events.c.state == "new", stripe_events.c.due_at <= now_ms()
    query = select(stripe_events).where(*due).order_by(stripe_events.c.due_at).limit(limit)
    by_object: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(query.with_for_update(skip_locked=True)).all():
        by_object[row.object_id].append(row)
    for rows in by_object.values():
        ids = [row.id for row in rows]
        connection.execute(
            update(stripe_events).where(stripe_events.c.id.in_(ids), *due).values(owner=owner, due_at=until)
        )
    return [
        Work(object_id, tuple(row.id for row in rows), max(row.attempts for row in rows))
        for object_id, rows in by_object.items()
    ]


def finish(connection: Connection, work: Work, owner: str) -> None:
    connection.execute(update(stripe_events).where(*_ours(work, owner)).values(state="done", owner=None, cause=None))


def fail(connection: Connection, work: Work, owner: str, cause: str, *, is_final: bool) -> None:
    """Again later, longer and longer; or never, and a person is told."""
    attempts = work.attempts + 1
    is_dead = is_final or attempts >= DEAD_AFTER
    if is_dead:
        what = ", ".join(work.ids)
        logger.error("events %s about %s are dead (gateway orders list): %s", what, work.object_id, cause)
    wait_seconds = min(WAIT_SECONDS_MAX, 2.0 ** min(attempts, 12))
    values = {
        "state": "dead" if is_dead else "new",
        "attempts": attempts,
        "due_at": now_ms() + int(wait_seconds * 1000),
        "owner": None,
        "cause": cause,
    }
    connection.execute(update(stripe_events).where(*_ours(work, owner)).values(**values))


def list_dead(connection: Connection, limit: int) -> Sequence[StripeEvent]:
    """Newest first."""
    query = select(stripe_events).where(stripe_events.c.state == "dead")
    return [_event(row) for row in connection.execute(query.order_by(stripe_events.c.received_at.desc()).limit(limit))]


def find(connection: Connection, event_id: str) -> StripeEvent | None:
    row = connection.execute(select(stripe_events).where(stripe_events.c.id == event_id)).first()
    return None if row is None else _event(row)


def resolve(connection: Connection, event_id: str, state: str) -> None:
    """A person's word on a dead one: `new` (work on it again) or `ignored`. Raises Conflict where it is not dead."""
    is_dead = stripe_events.c.id == event_id, stripe_events.c.state == "dead"
    values = {"state": state, "due_at": now_ms(), "attempts": 0, "owner": None}
    if not connection.execute(update(stripe_events).where(*is_dead).values(**values)).rowcount:
        raise Conflict("It is not dead.")


def count(connection: Connection) -> dict[str, int]:
    """How many wait, and how many are dead."""
    which = stripe_events.c.state.in_(("new", "dead"))
    query = select(stripe_events.c.state, func.count()).where(which).group_by(stripe_events.c.state)
    return {state: int(number) for state, number in connection.execute(query)}


def forget(connection: Connection, before: int, limit: int) -> int:
    """Delete some of what is settled and older than that; how many."""
    old = stripe_events.c.received_at < before, stripe_events.c.state.in_(("done", "ignored"))
    some = select(stripe_events.c.id).where(*old).order_by(stripe_events.c.received_at).limit(limit)
    return connection.execute(delete(stripe_events).where(stripe_events.c.id.in_(some))).rowcount


def _ours(work: Work, owner: str) -> tuple[Any, ...]:
    return stripe_events.c.id.in_(work.ids), stripe_events.c.state == "new", stripe_events.c.owner == owner


def _event(row: Row[Any]) -> StripeEvent:
    return StripeEvent(
        row.id, row.type, row.object_id, row.created_at, row.state, row.attempts, row.cause, row.received_at
    )
