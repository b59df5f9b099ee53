"""Open holds, for ops to look at."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from gateway.database.tables import HOLDS_PER_INSTANCE, holds, keys


@dataclass(frozen=True, slots=True)
class OpenHold:
    """`instance` is the process that owns it; `created_at` is Unix milliseconds."""

    key_id: str
    route: str
    cost: int
    request_id: str
    instance: int
    created_at: int


def read_open_holds(connection: Connection, limit: int, *, newest: bool) -> list[OpenHold]:
    """At most `limit` of them, by age."""
    found = (
        select(keys.c.key_id, holds.c.route, holds.c.cost, holds.c.request_id, holds.c.id, holds.c.created_at)
        .join(keys, keys.c.id == holds.c.key)
        .order_by(holds.c.created_at.desc() if newest else holds.c.created_at, holds.c.id)
        .limit(limit)
    )
    return [
        OpenHold(key_id, route, cost, request_id, number // HOLDS_PER_INSTANCE, created_at)
        for key_id, route, cost, request_id, number, created_at in connection.execute(found)
    ]
