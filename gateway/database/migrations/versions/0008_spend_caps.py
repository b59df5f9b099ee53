"""What a key may spend in a day and in a month."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, text

from gateway.database.types import Id

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("keys", Column("capped", Id, nullable=False, server_default=text("0")))
    op.create_table(
        "spend_caps",
        Column("key", Id, primary_key=True, autoincrement=False),
        Column("day_cap", Id),
        Column("month_cap", Id),
        Column("day", Id, nullable=False),
        Column("day_spent", Id, nullable=False),
        Column("month", Id, nullable=False),
        Column("month_spent", Id, nullable=False),
        CheckConstraint("day_cap >= 0 AND month_cap >= 0", name="caps_not_negative"),
        CheckConstraint("day_cap IS NOT NULL OR month_cap IS NOT NULL", name="capped"),
        CheckConstraint("day_spent >= 0 AND month_spent >= 0", name="spent_not_negative"),
        sqlite_strict=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE spend_caps SET (fillfactor = 70)")
