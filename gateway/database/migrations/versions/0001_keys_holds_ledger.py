"""Keys, holds, the ledger, and the instances that own holds."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, Integer, LargeBinary, Text, text

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "keys",
        Column("id", Integer, primary_key=True),
        Column("key_id", Text, nullable=False, unique=True),
        Column("key_hash", LargeBinary, nullable=False, unique=True),
        Column("start", Text, nullable=False),
        Column("user_id", Text, nullable=False),
        Column("name", Text),
        Column("balance", Integer),
        Column("held", Integer, nullable=False),
        Column("enabled", Integer, nullable=False),
        Column("expires_at", Integer),
        Column("revoked_at", Integer),
        Column("created_at", Integer, nullable=False),
        Column("last_entry", Integer),
        CheckConstraint("held >= 0", name="held_not_negative"),
        CheckConstraint("balance IS NULL OR balance >= held", name="available_not_negative"),
        CheckConstraint("length(key_hash) = 32", name="key_hash_is_sha256"),
        sqlite_strict=True,
    )
    op.create_index("keys_by_user", "keys", ["user_id", "key_id"])
    op.create_table(
        "holds",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("key", Integer, nullable=False),
        Column("cost", Integer, nullable=False),
        Column("route", Text, nullable=False),
        Column("request_id", Text, nullable=False),
        Column("answered", Integer, nullable=False),
        Column("created_at", Integer, nullable=False),
        CheckConstraint("cost > 0", name="cost_positive"),
        sqlite_strict=True,
    )
    op.create_table(
        "entries",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("key", Integer, nullable=False),
        Column("previous", Integer),
        Column("kind", Text, nullable=False),
        Column("amount", Integer, nullable=False),
        Column("balance_after", Integer),
        Column("route", Text),
        Column("request_id", Text),
        Column("reason", Text),
        Column("reference", Text),
        Column("created_at", Integer, nullable=False),
        CheckConstraint(
            "kind = 'spend' OR kind IN ('signup', 'purchase', 'promo', 'adjustment', 'clawback', 'reinstate')",
            name="kind_known",
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "entries_reference", "entries", ["reference"], unique=True, sqlite_where=text("reference IS NOT NULL")
    )
    op.create_table(
        "instances",
        Column("id", Integer, primary_key=True),
        Column("beat", Integer, nullable=False),
        Column("started_at", Integer, nullable=False),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
