"""Time for statements that read whole tables. Deadlines are for calls; nobody waits for these."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

HOURS_SECONDS = 86_400.0


def take_time(connection: Connection) -> None:
    """No deadline for what this transaction does; only the driver goes on waiting as long on its connection."""
    if connection.dialect.name == "postgresql":
        driver_of(connection).answer_seconds = HOURS_SECONDS
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {name} = 0"))


def driver_of(connection: Connection) -> Any:
    """The driver's connection."""
    driver = connection.connection.driver_connection
    assert driver is not None
    return driver
