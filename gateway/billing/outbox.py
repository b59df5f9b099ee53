"""Notifications to the app in SQL: written in the transaction that they tell of, sent afterwards (notifications.py).

Each function is one transaction's work on a SQLAlchemy connection.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from gateway.billing.orders import Order
from gateway.credits.ledger import now_ms
from gateway.database.billing_tables import notifications


@dataclass(frozen=True, slots=True)
class Notification:
    """One message to the app. `id` stays the same however often it is sent; `payload` is the body, to the byte."""

    id: str
    type: str
    payload: str
    attempts: int


class Outbox:
    """What is told. `is_on` False: nobody wants to hear."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on

    def tell(self, connection: Connection, type: str, members: Mapping[str, Any]) -> None:
        """Have the app told. `type` is such as `order.fulfilled`."""
        if not self._is_on:
            return
        now = now_ms()
        said_at = datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document = {"type": type, "timestamp": said_at, "data": members}
        connection.execute(
            insert(notifications).values(
                id=f"msg_{secrets.token_hex(12)}",
                type=type,
                payload=json.dumps(document, separators=(",", ":")),
                state="new",
                attempts=0,
                due_at=now,
                created_at=now,
            )
        )

    def tell_of_order(self, connection: Connection, type: str, order: Order, **members: Any) -> None:
        told = ("user_id", "key_id", "pack", "quantity", "credits", "currency", "amount_cents", "clawed")
        fields = {"order_id": order.id, **{name: getattr(order, name) for name in told}, "state": order.state.value}
        self.tell(connection, type, fields | members)


def claim(connection: Connection, until: int, limit: int) -> Sequence[Notification]:
    """Notifications that are due, ours until that time."""
    due = select(notifications).where(notifications.c.state == "new", notifications.c.due_at <= now_ms())
    due = due.order_by(notifications.c.due_at).limit(limit).with_for_update(skip_locked=True)
    rows = connection.execute(due).all()
    ids = [row.id for row in rows]
    connection.execute(update(notifications).where(notifications.c.id.in_(ids)).values(due_at=until))
    return [Notification(row.id, row.type, row.payload, row.attempts) for row in rows]


def is_due(connection: Connection) -> bool:
    due = select(notifications.c.id).where(notifications.c.state == "new", notifications.c.due_at <= now_ms())
    return connection.execute(due.limit(1)).first() is not None


def count_waiting(connection: Connection) -> int:
    query = select(func.count()).select_from(notifications).where(notifications.c.state == "new")
    return int(connection.execute(query).scalar_one())


def finish(connection: Connection, id: str, *, state: str, due_at: int, cause: str | None) -> None:
    """One more attempt was made: it is `done`, `dead`, or `new` and due again."""
    values = {"state": state, "due_at": due_at, "cause": cause, "attempts": notifications.c.attempts + 1}
    connection.execute(update(notifications).where(notifications.c.id == id).values(**values))


def forget(connection: Connection, before: int, limit: int) -> int:
    """Delete some of what is settled and older than that; how many."""
    old = notifications.c.created_at < before, notifications.c.state != "new"
    some = select(notifications.c.id).where(*old).order_by(notifications.c.created_at).limit(limit)
    return connection.execute(delete(notifications).where(notifications.c.id.in_(some))).rowcount
