"""Time for statements that read whole tables. Deadlines are for calls; nobody waits for these."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text


def take_time(connection: Connection) -> None:
    """No deadline for what this transaction does."""
    if connection.dialect.name == "postgresql":
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {name} = 0"))
        driver: Any = connection.connection.driver_connection
        driver.answer_seconds = None  # see database/postgres.py: PostgresConnection
