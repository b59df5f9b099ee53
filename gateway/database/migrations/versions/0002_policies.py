"""What a route may ask of a key beside credits: its permissions, and how often it has called."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, Integer, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("keys", Column("permissions", Text, nullable=False, server_default=""))
    op.create_table(
        "rate_windows",
        Column("key", Integer, primary_key=True, autoincrement=False),
        Column("name", Text, primary_key=True),
        Column("window_ms", Integer, primary_key=True, autoincrement=False),
        Column("start", Integer, nullable=False),
        Column("count", Integer, nullable=False),
        Column("previous", Integer, nullable=False),
        CheckConstraint("window_ms > 0 AND count > 0 AND previous >= 0", name="counts_fit"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
