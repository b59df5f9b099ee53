"""Metered calls that came with an Idempotency-Key, so that a repeat is charged once and gets the same answer."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, LargeBinary, text

from gateway.database.types import Id

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "answers",
        Column("lookup", LargeBinary, primary_key=True),
        Column("fingerprint", LargeBinary, nullable=False),
        Column("hold", Id, nullable=False),
        Column("done", Id, nullable=False, server_default=text("0")),
        Column("answer", LargeBinary),
        Column("size", Id, nullable=False, server_default=text("0")),
        Column("expires_at", Id, nullable=False),
        CheckConstraint("done = 1 OR (answer IS NULL AND size = 0)", name="answered_when_done"),
        sqlite_strict=True,
    )
    op.create_index("answers_by_age", "answers", ["expires_at", "size"])
