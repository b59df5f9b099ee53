"""What a route may ask of a key beside credits: its permissions, and how often it has called."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column

from gateway.database.types import Id, Word

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("keys", Column("permissions", Word, nullable=False, server_default=""))
    op.create_table(
        "rate_windows",
        Column("key", Id, primary_key=True, autoincrement=False),
        Column("name", Word, primary_key=True),
        Column("window_ms", Id, primary_key=True, autoincrement=False),
        Column("start", Id, nullable=False),
        Column("count", Id, nullable=False),
        Column("previous", Id, nullable=False),
        CheckConstraint("window_ms > 0 AND count > 0 AND previous >= 0", name="counts_fit"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
