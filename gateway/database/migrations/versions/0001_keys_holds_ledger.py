"""Keys, holds, the ledger, and the instances that own holds."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, LargeBinary

from gateway.database.types import Id, Word, where

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "keys",
        Column("id", Id, primary_key=True),
        Column("key_id", Word, nullable=False, unique=True),
        Column("key_hash", LargeBinary, nullable=False, unique=True),
        Column("start", Word, nullable=False),
        Column("user_id", Word, nullable=False),
        Column("name", Word),
        Column("balance", Id),
        Column("held", Id, nullable=False),
        Column("enabled", Id, nullable=False),
        Column("expires_at", Id),
        Column("revoked_at", Id),
        Column("created_at", Id, nullable=False),
        Column("last_entry", Id),
        CheckConstraint("held >= 0", name="held_not_negative"),
        CheckConstraint("balance IS NULL OR balance >= held", name="available_not_negative"),
        CheckConstraint("length(key_hash) = 32", name="key_hash_is_sha256"),
        sqlite_strict=True,
    )
    op.create_index("keys_by_user", "keys", ["user_id", "key_id"])
    op.create_table(
        "holds",
        Column("id", Id, primary_key=True, autoincrement=False),
        Column("key", Id, nullable=False),
        Column("cost", Id, nullable=False),
        Column("route", Word, nullable=False),
        Column("request_id", Word, nullable=False),
        Column("answered", Id, nullable=False),
        Column("created_at", Id, nullable=False),
        CheckConstraint("cost > 0", name="cost_positive"),
        sqlite_strict=True,
    )
    op.create_table(
        "entries",
        Column("id", Id, primary_key=True, autoincrement=False),
        Column("key", Id, nullable=False),
        Column("previous", Id),
        Column("kind", Word, nullable=False),
        Column("amount", Id, nullable=False),
        Column("balance_after", Id),
        Column("route", Word),
        Column("request_id", Word),
        Column("reason", Word),
        Column("reference", Word),
        Column("created_at", Id, nullable=False),
        CheckConstraint(
            "kind = 'spend' OR kind IN ('signup', 'purchase', 'promo', 'adjustment', 'clawback', 'reinstate')",
            name="kind_known",
        ),
        sqlite_strict=True,
    )
    op.create_index(
        "entries_reference",
        "entries",
        ["reference"],
        unique=True,
        **where("reference IS NOT NULL"),
    )
    op.create_table(
        "instances",
        Column("id", Id, primary_key=True),
        Column("beat", Id, nullable=False),
        Column("started_at", Id, nullable=False),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
