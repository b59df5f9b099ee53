"""Billing: orders, accounts, clawbacks on their way, Stripe's events, notifications, low keys, leases."""

from __future__ import annotations

from alembic import op
from sqlalchemy import CheckConstraint, Column, Integer, LargeBinary, Text, text

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
        Column("id", Text, primary_key=True),
        Column("user_id", Text, nullable=False),
        Column("key_id", Text, nullable=False),
        Column("pack", Text, nullable=False),
        Column("quantity", Integer, nullable=False),
        Column("credits", Integer, nullable=False),
        Column("currency", Text, nullable=False),
        Column("amount_cents", Integer, nullable=False),
        Column("livemode", Integer, nullable=False),
        Column("state", Text, nullable=False),
        Column("cause", Text),
        Column("needs_person", Integer, nullable=False),
        Column("resolution", Text),
        Column("attempt", Text),
        Column("checkout_id", Text, unique=True),
        Column("checkout_url", Text),
        Column("payment_id", Text, unique=True),
        Column("reference", Text),
        Column("clawed", Integer, nullable=False),
        Column("looks", Integer, nullable=False),
        Column("look_at", Integer),
        Column("is_disputed", Integer, nullable=False),
        Column("freeze_wanted", Integer, nullable=False),
        Column("frozen", Integer, nullable=False),
        Column("created_at", Integer, nullable=False),
        Column("updated_at", Integer, nullable=False),
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
        "orders_by_attempt", "orders", ["user_id", "attempt"], unique=True, sqlite_where=text("attempt IS NOT NULL")
    )
    op.create_index("orders_paid", "orders", ["id"], sqlite_where=text("state = 'paid'"))
    op.create_index("orders_for_a_person", "orders", ["created_at"], sqlite_where=text("needs_person = 1"))
    op.create_index("orders_to_look_at", "orders", ["look_at"], sqlite_where=text("look_at IS NOT NULL"))
    op.create_index("orders_disputed", "orders", ["id"], sqlite_where=text("is_disputed = 1"))
    op.create_index("orders_to_freeze", "orders", ["id"], sqlite_where=text("freeze_wanted <> frozen"))


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        Column("user_id", Text, primary_key=True),
        Column("livemode", Integer, primary_key=True, autoincrement=False),
        Column("customer_id", Text, unique=True),
        Column("debt", Integer, nullable=False),
        CheckConstraint("debt >= 0", name="debt_not_negative"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _create_claws() -> None:
    op.create_table(
        "claws",
        Column("reference", Text, primary_key=True),
        Column("order_id", Text, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _create_stripe_events() -> None:
    op.create_table(
        "stripe_events",
        Column("id", Text, primary_key=True),
        Column("type", Text, nullable=False),
        Column("object_id", Text, nullable=False),
        Column("payload", LargeBinary, nullable=False),
        Column("state", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("due_at", Integer, nullable=False),
        Column("owner", Text),
        Column("cause", Text),
        Column("created_at", Integer, nullable=False),
        Column("received_at", Integer, nullable=False),
        CheckConstraint("state IN ('new', 'done', 'ignored', 'dead')", name="state_known"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("stripe_events_due", "stripe_events", ["due_at"], sqlite_where=text("state = 'new'"))
    op.create_index("stripe_events_dead", "stripe_events", ["received_at"], sqlite_where=text("state = 'dead'"))
    op.create_index("stripe_events_by_age", "stripe_events", ["received_at"])


def _create_notifications() -> None:
    op.create_table(
        "notifications",
        Column("id", Text, primary_key=True),
        Column("type", Text, nullable=False),
        Column("payload", Text, nullable=False),
        Column("state", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("due_at", Integer, nullable=False),
        Column("cause", Text),
        Column("created_at", Integer, nullable=False),
        CheckConstraint("state IN ('new', 'done', 'dead')", name="state_known"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("notifications_due", "notifications", ["due_at"], sqlite_where=text("state = 'new'"))
    op.create_index("notifications_by_age", "notifications", ["created_at"])


def _create_low_keys() -> None:
    op.create_table(
        "low_keys",
        Column("key", Integer, primary_key=True, autoincrement=False),
        Column("threshold", Integer, nullable=False),
        sqlite_strict=True,
    )


def _create_leases() -> None:
    op.create_table(
        "leases",
        Column("name", Text, primary_key=True),
        Column("owner", Text, nullable=False),
        Column("until", Integer, nullable=False),
        Column("done_at", Integer, nullable=False),
        Column("position", Integer, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
