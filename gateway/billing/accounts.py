"""Buyers in SQL: their customer at Stripe, and the credits that they owe.

Credits that a refund takes back and that are not there any more are a debt of the user, whichever of his keys they were
on. His next purchase, or a reinstatement, pays it first.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, select, update

from gateway.billing.orders import Order
from gateway.database.billing_tables import accounts
from gateway.database.insert import insert_once


def lock(connection: Connection, order: Order) -> int:
    """Credits that the order's buyer owes; that stays so until the transaction ends. Order, account, key: in this order
    they are locked by whoever moves credits of an order."""
    _open(connection, order.user_id, livemode=order.livemode)
    return int(connection.execute(select(accounts.c.debt).where(_of(order)).with_for_update()).scalar_one())


def add_debt(connection: Connection, order: Order, credits: int) -> None:
    """More debt, or less."""
    if credits:
        _open(connection, order.user_id, livemode=order.livemode)
        connection.execute(update(accounts).where(_of(order)).values(debt=accounts.c.debt + credits))


def find_customer(connection: Connection, user_id: str, *, livemode: bool) -> str | None:
    of_user = accounts.c.user_id == user_id, accounts.c.livemode == int(livemode)
    return connection.execute(select(accounts.c.customer_id).where(*of_user)).scalar()


def keep_customer(connection: Connection, user_id: str, customer_id: str, *, livemode: bool) -> str:
    """Write down who the user is at Stripe, unless it is known already: who it is."""
    _open(connection, user_id, livemode=livemode)
    of_user = accounts.c.user_id == user_id, accounts.c.livemode == int(livemode)
    connection.execute(
        update(accounts).where(*of_user, accounts.c.customer_id.is_(None)).values(customer_id=customer_id)
    )
    return find_customer(connection, user_id, livemode=livemode) or customer_id


def forget_customer(connection: Connection, user_id: str, *, livemode: bool) -> None:
    of_user = accounts.c.user_id == user_id, accounts.c.livemode == int(livemode)
    connection.execute(update(accounts).where(*of_user).values(customer_id=None))


def _open(connection: Connection, user_id: str, *, livemode: bool) -> None:
    insert_once(connection, accounts, {"user_id": user_id, "livemode": int(livemode), "debt": 0})


def _of(order: Order) -> ColumnElement[bool]:
    return and_(accounts.c.user_id == order.user_id, accounts.c.livemode == int(order.livemode))
