"""The tables of billing, as SQLAlchemy Core sees them. Migration 0005 makes them.

What holds at all times, by CHECK where SQL can say it:
- An order is written before Stripe is called; its checkout, and the payment behind it, belong to no other order (I5).
- `clawed` of an order's credits have been taken back, or are owed (I6). For a user: the entries of all his orders
  together are what was credited minus what was clawed, plus `accounts.debt`: what was clawed and was not there.
- Times are Unix milliseconds, money is in the currency's smallest unit.
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Table

from gateway.database.tables import metadata
from gateway.database.types import Id, Word, where

orders = Table(
    "orders",
    metadata,
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
    Index("orders_by_time", "created_at", "id"),
    Index("orders_by_user", "user_id", "created_at"),
    Index("orders_by_key", "key_id", "created_at"),
    Index(
        "orders_by_attempt",
        "user_id",
        "attempt",
        unique=True,
        **where("attempt IS NOT NULL"),
    ),
    Index("orders_paid", "id", **where("state = 'paid'")),
    Index(
        "orders_for_a_person",
        "created_at",
        **where("needs_person = 1"),
    ),
    Index(
        "orders_to_look_at",
        "look_at",
        **where("look_at IS NOT NULL"),
    ),
    Index("orders_disputed", "id", **where("is_disputed = 1")),
    Index(
        "orders_to_freeze",
        "id",
        **where("freeze_wanted <> frozen"),
    ),
    sqlite_strict=True,
)
"""Sales. `cause`: why it is in this state, or what a person is asked for (`needs_person`). `reference` is that of the
entry by which it was credited; NULL: it never was. `attempt` is a hash of the buyer's Idempotency-Key. `looks` counts
what was learnt of refunds and disputes; whoever learnt it at an older count must look again. `look_at`: when to."""

accounts = Table(
    "accounts",
    metadata,
    Column("user_id", Word, primary_key=True),
    Column("livemode", Id, primary_key=True, autoincrement=False),
    Column("customer_id", Word, unique=True),
    Column("debt", Id, nullable=False),
    CheckConstraint("debt >= 0", name="debt_not_negative"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Buyers: who they are at Stripe, and the credits they owe (I6), which their next purchase pays first. Test money and
real money have accounts of their own."""

claws = Table(
    "claws",
    metadata,
    Column("reference", Word, primary_key=True),
    Column("order_id", Word, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Clawbacks and reinstatements on their way to a keeper elsewhere. Deleted when it is known what became of them: what a
clawback lacked becomes debt."""

stripe_events = Table(
    "stripe_events",
    metadata,
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
    Index("stripe_events_due", "due_at", **where("state = 'new'")),
    Index(
        "stripe_events_dead",
        "received_at",
        **where("state = 'dead'"),
    ),
    Index("stripe_events_by_age", "received_at"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""The inbox: what Stripe said, as it came. Whoever works on a row owns it until `due_at`."""

notifications = Table(
    "notifications",
    metadata,
    Column("id", Word, primary_key=True),
    Column("type", Word, nullable=False),
    Column("payload", Word, nullable=False),
    Column("state", Word, nullable=False),
    Column("attempts", Id, nullable=False),
    Column("due_at", Id, nullable=False),
    Column("cause", Word),
    Column("created_at", Id, nullable=False),
    CheckConstraint("state IN ('new', 'done', 'dead')", name="state_known"),
    Index("notifications_due", "due_at", **where("state = 'new'")),
    Index("notifications_by_age", "created_at"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""The outbox of webhooks to the app. `id` is the webhook-id that its receiver may tell repeats by."""

low_keys = Table(
    "low_keys",
    metadata,
    Column("key", Id, primary_key=True, autoincrement=False),
    Column("threshold", Id, nullable=False),
    sqlite_strict=True,
)
"""Keys whose balance is at or below a threshold, and the lowest one that was told."""

leases = Table(
    "leases",
    metadata,
    Column("name", Word, primary_key=True),
    Column("owner", Word, nullable=False),
    Column("until", Id, nullable=False),
    Column("done_at", Id, nullable=False),
    Column("position", Id, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Work that one process at a time does. `done_at`: when it was last done to its end; `position`: how far it got."""
