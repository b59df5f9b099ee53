"""Unkey as the provider: its name for a key, holds that ask it, doubts, grants on their way, retired names."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, Integer, LargeBinary, Text, text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("keys", Column("unkey_id", Text))
    op.create_index("keys_by_unkey_id", "keys", ["unkey_id"], unique=True, sqlite_where=text("unkey_id IS NOT NULL"))
    op.create_table(
        "unkey_holds",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("key", Integer, nullable=False),
        Column("key_hash", LargeBinary, nullable=False),
        Column("cost", Integer, nullable=False),
        Column("drawn", Integer, nullable=False),
        Column("asked", Integer, nullable=False),
        Column("route", Text, nullable=False),
        Column("request_id", Text, nullable=False),
        Column("answered", Integer, nullable=False),
        Column("created_at", Integer, nullable=False),
        CheckConstraint("cost > 0 AND drawn >= 0 AND asked >= 0 AND drawn + asked <= cost", name="parts_fit"),
        sqlite_strict=True,
    )
    _create_doubts()
    _create_grants()
    op.create_table(
        "retired_keys",
        Column("unkey_id", Text, primary_key=True),
        Column("key", Integer, nullable=False),
        Column("key_hash", LargeBinary, nullable=False),
        Column("retired_at", Integer, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("retired_keys_by_hash", "retired_keys", ["key_hash"])


def _create_doubts() -> None:
    op.create_table(
        "doubts",
        Column("id", Integer, primary_key=True),
        Column("key", Integer, nullable=False),
        Column("key_hash", LargeBinary, nullable=False),
        Column("amount", Integer, nullable=False),
        Column("route", Text, nullable=False),
        Column("request_id", Text, nullable=False),
        Column("cause", Text, nullable=False),
        Column("created_at", Integer, nullable=False),
        Column("resolution", Text),
        Column("resolved_at", Integer),
        CheckConstraint("amount > 0", name="amount_positive"),
        CheckConstraint("resolution IS NULL OR resolution IN ('applied', 'not-applied')", name="resolution_known"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index("doubts_open", "doubts", ["id"], sqlite_where=text("resolution IS NULL"))


def _create_grants() -> None:
    op.create_table(
        "grants",
        Column("id", Integer, primary_key=True),
        Column("key", Integer, nullable=False),
        Column("entry", Integer, nullable=False),
        Column("amount", Integer, nullable=False),
        Column("state", Text, nullable=False),
        Column("owner", Integer),
        Column("attempts", Integer, nullable=False),
        Column("due_at", Integer, nullable=False),
        Column("sent_at", Integer),
        Column("remaining_before", Integer),
        Column("remaining_after", Integer),
        Column("pool_before", Integer),
        Column("last_entry_before", Integer),
        Column("uncertain_before", Integer),
        Column("cause", Text),
        Column("created_at", Integer, nullable=False),
        Column("updated_at", Integer, nullable=False),
        CheckConstraint("amount <> 0", name="amount_not_zero"),
        CheckConstraint("state IN ('pending', 'sending', 'in_doubt', 'applied', 'failed')", name="state_known"),
        sqlite_strict=True,
        sqlite_autoincrement=True,
    )
    op.create_index(
        "grants_unsettled",
        "grants",
        ["key", "id"],
        sqlite_where=text("state IN ('pending', 'sending', 'in_doubt')"),
    )
