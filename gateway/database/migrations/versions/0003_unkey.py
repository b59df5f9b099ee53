"""Unkey as the provider: its name for a key, holds that ask it, doubts, grants on their way, retired names."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, LargeBinary

from gateway.database.types import Id, Word, where

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("keys", Column("unkey_id", Word))
    op.create_index(
        "keys_by_unkey_id",
        "keys",
        ["unkey_id"],
        unique=True,
        **where("unkey_id IS NOT NULL"),
    )
    op.create_table(
        "unkey_holds",
        Column("id", Id, primary_key=True, autoincrement=False),
        Column("key", Id, nullable=False),
        Column("key_hash", LargeBinary, nullable=False),
        Column("cost", Id, nullable=False),
        Column("drawn", Id, nullable=False),
        Column("asked", Id, nullable=False),
        Column("route", Word, nullable=False),
        Column("request_id", Word, nullable=False),
        Column("answered", Id, nullable=False),
        Column("created_at", Id, nullable=False),
        CheckConstraint("cost > 0 AND drawn >= 0 AND asked >= 0 AND drawn + asked <= cost", name="parts_fit"),
        sqlite_strict=True,
    )
    _create_doubts()
    _create_grants()
    op.create_table(
        "retired_keys",
        Column("unkey_id", Word, primary_key=True),
        Column("key", Id, nullable=False),
        Column("key_hash", LargeBinary, nullable=False),
        Column("retired_at", Id, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("retired_keys_by_hash", "retired_keys", ["key_hash"])


def _create_doubts() -> None:
    op.create_table(
        "doubts",
        Column("id", Id, primary_key=True),
        Column("key", Id, nullable=False),
        Column("key_hash", LargeBinary, nullable=False),
        Column("amount", Id, nullable=False),
        Column("route", Word, nullable=False),
        Column("request_id", Word, nullable=False),
        Column("cause", Word, nullable=False),
        Column("created_at", Id, nullable=False),
        Column("resolution", Word),
        Column("resolved_at", Id),
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint("resolution IS NULL OR resolution IN ('applied', 'not-applied')", name="resolution_known"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index(
        "doubts_open",
        "doubts",
        ["id"],
        **where("resolution IS NULL"),
    )


def _create_grants() -> None:
    op.create_table(
        "grants",
        Column("id", Id, primary_key=True),
        Column("key", Id, nullable=False),
        Column("entry", Id, nullable=False),
        Column("amount", Id, nullable=False),
        Column("state", Word, nullable=False),
        Column("owner", Id),
        Column("attempts", Id, nullable=False),
        Column("due_at", Id, nullable=False),
        Column("sent_at", Id),
        Column("remaining_before", Id),
        Column("remaining_after", Id),
        Column("pool_before", Id),
        Column("last_entry_before", Id),
        Column("uncertain_before", Id),
        Column("cause", Word),
        Column("created_at", Id, nullable=False),
        Column("updated_at", Id, nullable=False),
        CheckConstraint("amount <> 0", name="amount_not_zero"),
        CheckConstraint("state IN ('pending', 'sending', 'in_doubt', 'applied', 'failed')", name="state_known"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index(
        "grants_unsettled",
        "grants",
        ["key", "id"],
        **where("state IN ('pending', 'sending', 'in_doubt')"),
    )
