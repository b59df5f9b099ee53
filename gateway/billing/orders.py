"""Orders in SQL. One is written before Stripe is called, and moves only as drawn here.

    created ──▶ open ──▶ awaiting_payment ──▶ paid ──▶ fulfilled
       │         │ │            │              │
       │         │ └────────────┴──────────────┴─▶ review ──a person──▶ paid or failed
       └─────────┴─▶ expired, failed ──Stripe says it was paid after all──▶ paid

`paid`: its credits are in the ledger. `fulfilled`: whoever keeps the key has them. `review`: something about it is odd;
it is never credited unless a person says so. Money decides: what Stripe says was paid is credited, whatever we thought
of the order before, unless a person has rejected it.

Each function is one transaction's work on a SQLAlchemy connection.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from gateway.billing.packs import Sale
from gateway.credits.ledger import now_ms
from gateway.database.billing_tables import orders
from gateway.database.insert import insert_once
from gateway.errors import CreditsUnavailable

logger = logging.getLogger("gateway.billing")

PREFIX = "order_"
UNFREEZE = "unfreeze"
"""A person's word on an order whose dispute was lost: its key may be used again."""


class State(StrEnum):
    """How far an order has got."""

    created = "created"
    open = "open"
    awaiting_payment = "awaiting_payment"
    paid = "paid"
    fulfilled = "fulfilled"
    failed = "failed"
    expired = "expired"
    review = "review"


CREDITED = frozenset({State.paid, State.fulfilled})
UNPAID = frozenset({State.created, State.open, State.awaiting_payment, State.expired, State.failed})
"""States that Stripe's word may end."""
ALLOWED: dict[State, frozenset[State]] = {
    State.created: UNPAID | {State.paid, State.review},
    State.open: UNPAID - {State.created} | {State.paid, State.review},
    State.awaiting_payment: frozenset({State.failed, State.paid, State.review}),
    State.expired: frozenset({State.open, State.awaiting_payment, State.failed, State.paid, State.review}),
    State.failed: frozenset({State.awaiting_payment, State.paid, State.review}),
    State.paid: frozenset({State.fulfilled, State.review}),
    State.review: frozenset({State.paid, State.failed}),
    State.fulfilled: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Order:
    """One sale. `clawed` of its credits were taken back for refunds and disputes, or are owed; `cause` is why it is in
    this state, or what a person is asked for. Times are Unix milliseconds."""

    id: str
    user_id: str
    key_id: str
    pack: str
    quantity: int
    credits: int
    currency: str
    amount_cents: int
    livemode: bool
    state: State
    cause: str | None
    needs_person: bool
    resolution: str | None
    checkout_id: str | None
    checkout_url: str | None
    payment_id: str | None
    reference: str | None
    clawed: int
    looks: int
    is_disputed: bool
    is_frozen: bool
    created_at: int
    updated_at: int

    @property
    def is_credited(self) -> bool:
        return self.state in CREDITED

    @property
    def is_open(self) -> bool:
        """Whether Stripe's word may still change it."""
        return self.state in UNPAID and self.resolution is None


def metadata_of(order: Order) -> dict[str, str]:
    """What Stripe keeps of it beside its own things, for whoever looks there. Nothing is credited by it; what is there
    and differs makes the sale odd."""
    return {
        "order_id": order.id,
        "user_id": order.user_id,
        "key_id": order.key_id,
        "pack": order.pack,
        "quantity": str(order.quantity),
        "credits": str(order.credits),
    }


def create(
    connection: Connection, sale: Sale, *, user_id: str, key_id: str, livemode: bool, attempt: str | None
) -> tuple[Order, bool]:
    """A new order and True; or, where the user's attempt has one already, that one and False."""
    now = now_ms()
    row = {
        "id": PREFIX + secrets.token_hex(12),
        "user_id": user_id,
        "key_id": key_id,
        "pack": sale.pack.id,
        "quantity": sale.quantity,
        "credits": sale.credits,
        "currency": sale.pack.currency,
        "amount_cents": sale.amount_cents,
        "livemode": int(livemode),
        "state": State.created.value,
        "attempt": attempt,
        "created_at": now,
        "updated_at": now,
    }
    nothing = dict.fromkeys(("needs_person", "clawed", "looks", "is_disputed", "freeze_wanted", "frozen"), 0)
    if insert_once(connection, orders, row | nothing):
        return must_find(connection, str(row["id"])), True
    same = orders.c.user_id == user_id, orders.c.attempt == attempt
    return _order(connection.execute(select(orders).where(*same)).one()), False


def find(connection: Connection, order_id: str) -> Order | None:
    return _first(connection, orders.c.id == order_id)


def must_find(connection: Connection, order_id: str) -> Order:
    return _order(connection.execute(select(orders).where(orders.c.id == order_id)).one())


def lock(connection: Connection, order_id: str) -> Order | None:
    """The order as it is and stays until the transaction ends. It is locked before account and key."""
    row = connection.execute(select(orders).where(orders.c.id == order_id).with_for_update()).first()
    return None if row is None else _order(row)


def find_by_checkout(connection: Connection, checkout_id: str) -> Order | None:
    return _first(connection, orders.c.checkout_id == checkout_id)


def find_by_payment(connection: Connection, payment_id: str) -> Order | None:
    return _first(connection, orders.c.payment_id == payment_id)


def find_by_checkouts(connection: Connection, checkout_ids: Iterable[str]) -> dict[str, Order]:
    rows = connection.execute(select(orders).where(orders.c.checkout_id.in_(list(checkout_ids))))
    return {row.checkout_id: _order(row) for row in rows}


def attach(connection: Connection, order: Order, checkout_id: str, url: str | None) -> Order:
    """Write down the order's checkout; the buyer may pay now."""
    values = {"checkout_id": checkout_id, "checkout_url": url}
    if order.state is State.created:
        return move(connection, order, State.open, **values)
    _update(connection, order, **values)
    return must_find(connection, order.id)


def move(connection: Connection, order: Order, state: State, **values: Any) -> Order:
    """Put the order into that state. Raises CreditsUnavailable where it is not any more as it was read: try again."""
    if state is not order.state:
        assert state in ALLOWED[order.state], f"{order.state} → {state}"
    _update(connection, order, state=state.value, **values)
    return must_find(connection, order.id)


def review(connection: Connection, order: Order, cause: str, payment_id: str | None = None) -> Order:
    """It is not credited unless a person says so."""
    _alert(order, cause)
    payment_id = payment_id or order.payment_id
    values = {"cause": cause, "needs_person": 1, "payment_id": payment_id, "look_at": None}
    return move(connection, order, State.review, **values)


def ask_person(connection: Connection, order: Order, cause: str) -> None:
    """Somebody is to look at an order that goes on otherwise."""
    _alert(order, cause)
    _update(connection, order, cause=cause, needs_person=1)


def look_later(connection: Connection, order_id: str, due_at: int | None) -> None:
    """When Stripe is to be asked about its refunds and disputes; None: not by itself."""
    connection.execute(update(orders).where(orders.c.id == order_id).values(look_at=due_at))


def look_now(connection: Connection, order: Order) -> None:
    """Where Stripe is to be asked about its refunds and disputes at some time, let that be now."""
    waiting = orders.c.id == order.id, orders.c.look_at.is_not(None)
    connection.execute(update(orders).where(*waiting).values(look_at=now_ms()))


def read_to_look_at(connection: Connection, limit: int) -> Sequence[Order]:
    return _all(connection, orders.c.look_at <= now_ms(), limit=limit)


def read_paid(connection: Connection, after: str, limit: int) -> Sequence[Order]:
    """Orders whose credits are on their way, in the order of their ids, from behind `after`."""
    query = select(orders).where(orders.c.state == State.paid.value, orders.c.id > after)
    return [_order(row) for row in connection.execute(query.order_by(orders.c.id).limit(limit))]


def read_disputed(connection: Connection, *, livemode: bool) -> Sequence[Order]:
    """Orders over which a bank has not decided yet. Those of the other mode our key could not ask about."""
    return _all(connection, orders.c.is_disputed == 1, orders.c.livemode == int(livemode))


def has_disputed(connection: Connection, user_id: str, *, livemode: bool) -> bool:
    """Whether a bank has yet to decide over one of the user's orders."""
    disputed = orders.c.user_id == user_id, orders.c.is_disputed == 1, orders.c.livemode == int(livemode)
    return connection.execute(select(orders.c.id).where(*disputed).limit(1)).first() is not None


def read_abandoned(connection: Connection, before: int) -> Sequence[Order]:
    """Orders older than that, of which Stripe never told us a checkout."""
    lost = orders.c.state == State.created.value, orders.c.checkout_id.is_(None), orders.c.created_at < before
    query = select(orders).where(*lost).order_by(orders.c.created_at, orders.c.id).limit(1000)
    return [_order(row) for row in connection.execute(query.with_for_update(skip_locked=True))]


def list_orders(connection: Connection, *, is_all: bool, limit: int) -> Sequence[Order]:
    """Newest first: those that a person is asked about, or all."""
    query = select(orders).order_by(orders.c.created_at.desc(), orders.c.id).limit(limit)
    if not is_all:
        query = query.where(orders.c.needs_person == 1)
    return [_order(row) for row in connection.execute(query)]


def count_for_a_person(connection: Connection) -> int:
    query = select(func.count()).select_from(orders).where(orders.c.needs_person == 1)
    return int(connection.execute(query).scalar_one())


def decide(connection: Connection, order: Order, resolution: str | None, **values: Any) -> Order:
    """Write down a person's word."""
    _update(connection, order, resolution=resolution, **values)
    return must_find(connection, order.id)


def learn(connection: Connection, order: Order, **values: Any) -> bool:
    """Write down what was learnt of the order's refunds and disputes. False if somebody has learnt more meanwhile, or
    the order is in another state."""
    same = orders.c.id == order.id, orders.c.looks == order.looks, orders.c.clawed == order.clawed
    result = connection.execute(
        update(orders)
        .where(*same, orders.c.state == order.state.value)
        .values(looks=order.looks + 1, updated_at=now_ms(), **values)
    )
    return bool(result.rowcount)


def _update(connection: Connection, order: Order, **values: Any) -> None:
    same = orders.c.id == order.id, orders.c.state == order.state.value
    result = connection.execute(update(orders).where(*same).values(updated_at=now_ms(), **values))
    if not result.rowcount:  # on a database whose readers don't wait for writers
        raise CreditsUnavailable(cause=f"{order.id} was moved by somebody else")


def _alert(order: Order, cause: str) -> None:
    logger.error("order %s needs a person (gateway orders resolve): %s", order.id, cause)


def _first(connection: Connection, *conditions: Any) -> Order | None:
    row = connection.execute(select(orders).where(*conditions)).first()
    return None if row is None else _order(row)


def _all(connection: Connection, *conditions: Any, limit: int | None = None) -> Sequence[Order]:
    query = select(orders).where(*conditions).order_by(orders.c.created_at, orders.c.id).limit(limit)
    return [_order(row) for row in connection.execute(query)]


def _order(row: Row[Any]) -> Order:
    return Order(
        id=row.id,
        user_id=row.user_id,
        key_id=row.key_id,
        pack=row.pack,
        quantity=row.quantity,
        credits=row.credits,
        currency=row.currency,
        amount_cents=row.amount_cents,
        livemode=bool(row.livemode),
        state=State(row.state),
        cause=row.cause,
        needs_person=bool(row.needs_person),
        resolution=row.resolution,
        checkout_id=row.checkout_id,
        checkout_url=row.checkout_url,
        payment_id=row.payment_id,
        reference=row.reference,
        clawed=row.clawed,
        looks=row.looks,
        is_disputed=bool(row.is_disputed),
        is_frozen=bool(row.freeze_wanted),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
