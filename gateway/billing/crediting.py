"""An order's credits enter the ledger, and arrive.

Order, entry, debt and notification are one commit, in the transaction of whoever found that the order is paid.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from gateway.billing import accounts, claws, orders
from gateway.billing.orders import Order, State
from gateway.billing.outbox import Outbox
from gateway.credits.provider import CreditsProvider
from gateway.errors import Conflict, Invalid

logger = logging.getLogger("gateway.billing")


class Crediting:
    """Each method is one transaction's work on a SQLAlchemy connection."""

    def __init__(self, provider: CreditsProvider, outbox: Outbox) -> None:
        self._provider = provider
        self._outbox = outbox

    def kick(self) -> None:
        """After the commit: what is on its way need not wait."""
        self._provider.kick()

    def credit(self, connection: Connection, order: Order, payment_id: str | None) -> Order:
        """Give the order its credits, once. Where they can't be given it is one for a person; an order that a person
        has decided over raises Invalid or Conflict instead."""
        accounts.lock(connection, order)
        reference = self._free_reference(connection, order)
        reason = f"{order.quantity} × {order.pack}"
        try:
            with connection.begin_nested():
                self._provider.grant_in(connection, order.key_id, order.credits, "purchase", reason, reference)
        except (Invalid, Conflict) as error:
            if order.state is State.review:
                raise
            cause = f"its {order.credits} credits can't be given: {_why(error)}"
            return orders.review(connection, order, cause, payment_id)
        order = orders.move(
            connection,
            order,
            State.paid,
            payment_id=payment_id or order.payment_id,
            reference=reference,
            cause=None,
            needs_person=0,
        )
        claws.net_debt(connection, self._provider, order)
        return self.arrive(connection, order)

    def arrive(self, connection: Connection, order: Order) -> Order:
        """A paid order is fulfilled as soon as whoever keeps the key has its credits."""
        assert order.reference is not None
        progress = self._provider.progress_in(connection, order.reference)
        if progress is None or progress.state == "failed":
            return orders.review(connection, order, "its credits could not be given: the key's keeper refuses them")
        if progress.state != "applied":
            return order
        order = orders.move(connection, order, State.fulfilled)
        orders.look_now(connection, order)  # where some of it is to go back already
        logger.info("order %s is fulfilled: %d credits for %s", order.id, order.credits, order.key_id)
        self._outbox.tell_of_order(connection, "order.fulfilled", order)
        return order

    def _free_reference(self, connection: Connection, order: Order) -> str:
        """The order's own. Where that grant failed at the keeper's and was taken back, one more."""
        reference, again = f"order:{order.id}", 1
        while (
            progress := self._provider.progress_in(connection, reference)
        ) is not None and progress.state == "failed":
            again += 1
            reference = f"order:{order.id}:{again}"
        return reference


def _why(error: Invalid | Conflict) -> str:
    return "; ".join([error.detail, *map(str, error.members.get("errors", {}).values())])
