"""Requests that came with an Idempotency-Key, so that a repeat gets the same answer."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, LargeBinary

from gateway.database.types import Id, Word

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "requests",
        Column("lookup", LargeBinary, primary_key=True),
        Column("identity", LargeBinary, nullable=False),
        Column("fingerprint", LargeBinary, nullable=False),
        Column("owner", LargeBinary),
        Column("owned_until", Id, nullable=False),
        Column("key_id", Word),
        Column("status", Id),
        Column("answer", LargeBinary),
        Column("created_at", Id, nullable=False),
        CheckConstraint("(status IS NULL) = (answer IS NULL)", name="answered_or_not"),
        CheckConstraint("(owner IS NULL) = (status IS NOT NULL)", name="owned_until_answered"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("requests_by_identity", "requests", ["identity", "created_at"])
    op.create_index("requests_by_age", "requests", ["created_at"])
