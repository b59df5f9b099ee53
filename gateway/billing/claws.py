"""Credits that go back, in SQL: clawbacks and what they lack, debts, and reinstatements.

For a user, at all times: the entries of his orders = what was credited − what was clawed + what he owes. So a clawback
moves what is there and books the rest as debt; a reinstatement pays the debt and moves the rest; a purchase brings its
credits and pays the debt with them.

Each function is one transaction's work on a SQLAlchemy connection.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from gateway.billing import accounts, orders
from gateway.billing.orders import Order
from gateway.credits.provider import CreditsProvider
from gateway.database.billing_tables import claws
from gateway.errors import Conflict, Invalid

logger = logging.getLogger("gateway.billing")


def claw(connection: Connection, provider: CreditsProvider, order: Order, credits: int, reference: str) -> None:
    """Take credits of the order back; what is not there any more is owed."""
    accounts.lock(connection, order)
    taken = _take(connection, provider, order, credits, f"refund or dispute of {order.id}", reference)
    accounts.add_debt(connection, order, credits - taken)


def reinstate(connection: Connection, provider: CreditsProvider, order: Order, credits: int, reference: str) -> None:
    """Give credits of the order back; what its buyer owes comes first."""
    paid = min(credits, accounts.lock(connection, order))
    accounts.add_debt(connection, order, -paid)
    if credits == paid:
        return
    reason = f"refund or dispute of {order.id} came to nothing"
    try:
        with connection.begin_nested():
            provider.grant_in(connection, order.key_id, credits - paid, "reinstate", reason, reference)
    except (Invalid, Conflict) as error:
        cause = f"{credits - paid} credits are to be given back and can't: {error.detail}"
        orders.ask_person(connection, order, cause)
    else:
        _await(connection, provider, order, reference)


def net_debt(connection: Connection, provider: CreditsProvider, order: Order) -> None:
    """Pay what the buyer owes with the credits that the order has just brought."""
    owed = min(order.credits, accounts.lock(connection, order))
    if owed:
        taken = _take(connection, provider, order, owed, "owed for what was refunded", f"debt:{order.reference}")
        accounts.add_debt(connection, order, -taken)


def read_open(connection: Connection, after: str, limit: int) -> Sequence[str]:
    """References of what is on its way back or forth, in their order, from behind `after`."""
    query = select(claws.c.reference).where(claws.c.reference > after).order_by(claws.c.reference).limit(limit)
    return list(connection.execute(query).scalars())


def settle(connection: Connection, provider: CreditsProvider, reference: str) -> bool:
    """What a clawback lacked in the end is owed; what the key's keeper does not take back is a person's business.
    False if it is not known yet."""
    progress = provider.progress_in(connection, reference)
    if progress is not None and progress.state not in {"applied", "failed"}:
        return False
    mine = delete(claws).where(claws.c.reference == reference).returning(claws.c.order_id)
    order_id = connection.execute(mine).scalar()  # None: another process was quicker
    if order_id is None or progress is None:
        return True
    order = orders.must_find(connection, order_id)
    if progress.shortfall:
        accounts.add_debt(connection, order, progress.shortfall)
    elif progress.state == "failed":
        cause = f"credits are to be given back, and the key's keeper refuses them: entry {reference}"
        orders.ask_person(connection, order, cause)
    return True


def _take(
    connection: Connection, provider: CreditsProvider, order: Order, credits: int, reason: str, reference: str
) -> int:
    try:
        with connection.begin_nested():
            taken = provider.claw_in(connection, order.key_id, credits, reason, reference)
    except (Invalid, Conflict) as error:
        logger.warning("%d credits of %s can't be taken back, so they are owed: %s", credits, order.id, error.detail)
        return 0
    _await(connection, provider, order, reference)
    return taken


def _await(connection: Connection, provider: CreditsProvider, order: Order, reference: str) -> None:
    """See to its end what a keeper elsewhere does not have yet."""
    progress = provider.progress_in(connection, reference)
    if progress is not None and progress.state != "applied":
        connection.execute(insert(claws).values(reference=reference, order_id=order.id))
