"""Billing: orders, accounts, clawbacks on their way, Stripe's events, notifications, low keys, leases."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, LargeBinary

from gateway.database.types import Id, Word, where

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    _create_orders()
    _create_accounts()
    _create_claws()
    _create_stripe_events()
    _create_notifications()
    _create_low_keys()
    _create_leases()


def _create_orders() -> None:
    op.create_table(
        "orders",
        Column("id", Word, primary_key=True),
        Column("user_id", Word, nullable=False),
        Column("key_id", Word, nullable=False),
        Column("pack", Word, nullable=False),
        Column("quantity", Id, nullable=False),
        Column("credits", Id, nullable=False),
        Column("currency", Word, nullable=False),
        Column("amount_cents", Id, nullable=False),
        Column("livemode", Id, nullable=False),
        Column("state", Word, nullable=False),
        Column("cause", Word),
        Column("needs_person", Id, nullable=False),
        Column("resolution", Word),
        Column("attempt", Word),
        Column("checkout_id", Word, unique=True),
        Column("checkout_url", Word),
        Column("payment_id", Word, unique=True),
        Column("reference", Word),
        Column("clawed", Id, nullable=False),
        Column("looks", Id, nullable=False),
        Column("look_at", Id),
        Column("is_disputed", Id, nullable=False),
        Column("freeze_wanted", Id, nullable=False),
        Column("frozen", Id, nullable=False),
        Column("created_at", Id, nullable=False),
        Column("updated_at", Id, nullable=False),
        CheckConstraint("quantity > 0 AND credits > 0 AND amount_cents > 0", name="something_is_sold"),
        CheckConstraint("clawed BETWEEN 0 AND credits", name="clawed_fits"),
        CheckConstraint(
            "state IN ('created', 'open', 'awaiting_payment', 'paid', 'fulfilled', 'failed', 'expired', 'review')",
            name="state_known",
        ),
        CheckConstraint("clawed = 0 OR reference IS NOT NULL", name="clawed_was_credited"),
        sqlite_strict=True,
    )
    op.create_index("orders_by_time", "orders", ["created_at", "id"])
    op.create_index("orders_by_user", "orders", ["user_id", "created_at"])
    op.create_index("orders_by_key", "orders", ["key_id", "created_at"])
    op.create_index(
        "orders_by_attempt",
        "orders",
        ["user_id", "attempt"],
        unique=True,
        **where("attempt IS NOT NULL"),
    )
    op.create_index("orders_paid", "orders", ["id"], **where("state = 'paid'"))
    op.create_index(
        "orders_for_a_person",
        "orders",
        ["created_at"],
        **where("needs_person = 1"),
    )
    op.create_index(
        "orders_to_look_at",
        "orders",
        ["look_at"],
        **where("look_at IS NOT NULL"),
    )
    op.create_index(
        "orders_disputed",
        "orders",
        ["id"],
        **where("is_disputed = 1"),
    )
    op.create_index(
        "orders_to_freeze",
        "orders",
        ["id"],
        **where("freeze_wanted <> frozen"),
    )


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        Column("user_id", Word, primary_key=True),
        Column("livemode", Id, primary_key=True, autoincrement=False),
        Column("customer_id", Word, unique=True),
        Column("debt", Id, nullable=False),
        CheckConstraint("debt >= 0", name="debt_not_negative"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _create_claws() -> None:
    op.create_table(
        "claws",
        Column("reference", Word, primary_key=True),
        Column("order_id", Word, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _create_stripe_events() -> None:
    op.create_table(
        "stripe_events",
        Column("id", Word, primary_key=True),
        Column("type", Word, nullable=False),
        Column("object_id", Word, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("state", Word, nullable=False),
        Column("attempts", Id, nullable=False),
        Column("due_at", Id, nullable=False),
        Column("owner", Word),
        Column("cause", Word),
        Column("created_at", Id, nullable=False),
        Column("received_at", Id, nullable=False),
        CheckConstraint("state IN ('new', 'done', 'ignored', 'dead')", name="state_known"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        "stripe_events_due",
        "stripe_events",
        ["due_at"],
        **where("state = 'new'"),
    )
    op.create_index(
        "stripe_events_dead",
        "stripe_events",
        ["received_at"],
        **where("state = 'dead'"),
    )
    op.create_index("stripe_events_by_age", "stripe_events", ["received_at"])


def _create_notifications() -> None:
    op.create_table(
        "notifications",
        Column("id", Word, primary_key=True),
        Column("type", Word, nullable=False),
        Column("payload", Word, nullable=False),
        Column("state", Word, nullable=False),
        Column("attempts", Id, nullable=False),
        Column("due_at", Id, nullable=False),
        Column("cause", Word),
        Column("created_at", Id, nullable=False),
        CheckConstraint("state IN ('new', 'done', 'dead')", name="state_known"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index(
        "notifications_due",
        "notifications",
        ["due_at"],
        **where("state = 'new'"),
    )
    op.create_index("notifications_by_age", "notifications", ["created_at"])


def _create_low_keys() -> None:
    op.create_table(
        "low_keys",
        Column("key", Id, primary_key=True, autoincrement=False),
        Column("threshold", Id, nullable=False),
        sqlite_strict=True,
    )


def _create_leases() -> None:
    op.create_table(
        "leases",
        Column("name", Word, primary_key=True),
        Column("owner", Word, nullable=False),
        Column("until", Id, nullable=False),
        Column("done_at", Id, nullable=False),
        Column("position", Id, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
