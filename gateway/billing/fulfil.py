"""A paid checkout becomes credits, once.

`Fulfilment.fulfil` takes a checkout's id and nothing else. Webhooks, the reconciler and the landing page all call it,
as often as they like and at once: it asks Stripe how the checkout stands now, and moves the order and the ledger in one
transaction. What an event said is a hint; what metadata say is a pointer.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from gateway.billing import orders
from gateway.billing.crediting import Crediting
from gateway.billing.orders import Order, State
from gateway.billing.payments import StripeCheckout
from gateway.billing.stripe_api import StripeApi
from gateway.database.engine import Database
from gateway.errors import GatewayError

logger = logging.getLogger("gateway.billing")

WAITING = frozenset({"processing", "requires_action", "requires_capture", "requires_confirmation", None})
"""What a payment that is not made yet, and still may be, is called."""


class Stray(GatewayError):
    """A paid checkout says that it is ours, and our books don't know it. Nobody is credited; a person must look."""


class Fulfilment:
    """`livemode`: whether our key at Stripe is one for real money."""

    def __init__(self, database: Database, crediting: Crediting, stripe: StripeApi, *, livemode: bool) -> None:
        self._database = database
        self._crediting = crediting
        self._stripe = stripe
        self._livemode = livemode

    async def fulfil(self, checkout_id: str) -> Order | None:
        """Bring the checkout's order up to date. None: it is not ours. Raises Stray, BillingUnavailable,
        CreditsUnavailable."""
        checkout = await self._stripe.find_checkout(checkout_id)
        return None if checkout is None else await self.settle(checkout)

    async def settle(self, checkout: StripeCheckout) -> Order | None:
        """As `fulfil`, with a checkout that Stripe has just told of."""
        order = await self._database.transaction(lambda db: self._settle(db, checkout))
        if order is not None and order.state is State.paid:
            self._crediting.kick()
        return order

    def _settle(self, connection: Connection, checkout: StripeCheckout) -> Order | None:
        matched = _match(connection, checkout)
        order = orders.lock(connection, matched.id) if matched is not None else None
        if order is None or not order.is_open:
            return order
        if order.checkout_id not in {None, checkout.id}:  # it got another just now
            return self._settle(connection, checkout)
        if order.checkout_id is None:
            order = orders.attach(connection, order, checkout.id, checkout.url)
        if checkout.status == "expired":
            return _move(connection, order, State.expired)
        if checkout.status == "open":
            return order
        odd = self._oddities(connection, order, checkout)
        if odd:
            return orders.review(connection, order, "; ".join(odd), _own_payment(connection, order, checkout))
        if checkout.payment_status == "unpaid":
            waits = checkout.payment_state in WAITING
            return _move(connection, order, State.awaiting_payment if waits else State.failed, checkout.payment_id)
        return self._crediting.credit(connection, order, checkout.payment_id)

    def _oddities(self, connection: Connection, order: Order, checkout: StripeCheckout) -> list[str]:
        """Everything about a complete checkout that is not as we made it."""
        expected: dict[str, tuple[object, object]] = {
            "livemode": (checkout.livemode, self._livemode),
            "the order's livemode": (order.livemode, self._livemode),
            "mode": (checkout.mode, "payment"),
            "status": (checkout.status, "complete"),
            "currency": (checkout.currency, order.currency),
            "amount_subtotal": (checkout.amount_subtotal, order.amount_cents),
            "client_reference_id": (checkout.client_reference, order.id),
        }
        for name, was in orders.metadata_of(order).items():
            if name in checkout.metadata or name == "order_id":
                expected[f"metadata.{name}"] = checkout.metadata.get(name), was
        odd = [f"{name} is {is_!r} instead of {was!r}" for name, (is_, was) in expected.items() if is_ != was]
        if checkout.payment_status not in {"paid", "unpaid", "no_payment_required"}:
            odd.append(f"payment_status is {checkout.payment_status!r}")
        if checkout.payment_status == "no_payment_required" and checkout.amount_total != 0:
            odd.append(f"no payment is required of {checkout.amount_total}")
        if checkout.payment_id is not None and _own_payment(connection, order, checkout) is None:
            odd.append("its payment is that of another order")
        return odd


def _match(connection: Connection, checkout: StripeCheckout) -> Order | None:
    """The checkout's order. One that never heard of its checkout (the answer was lost) is found by the reference that
    it gave along. None: somebody else's. Raises Stray."""
    order = orders.find_by_checkout(connection, checkout.id)
    if order is not None:
        return order
    claimed = checkout.order_id or ""
    if not claimed.startswith(orders.PREFIX):
        return None
    order = orders.find(connection, claimed)
    if order is not None and order.checkout_id is None:
        return order
    if checkout.status != "complete" or checkout.payment_status == "unpaid":
        return None
    what = "has another checkout" if order is not None else "is not in the books"
    raise Stray(cause=f"checkout {checkout.id} is paid, and its order {claimed} {what}")


def _own_payment(connection: Connection, order: Order, checkout: StripeCheckout) -> str | None:
    """The checkout's payment, unless it is another order's."""
    if checkout.payment_id is None:
        return None
    other = orders.find_by_payment(connection, checkout.payment_id)
    return checkout.payment_id if other is None or other.id == order.id else None


def _move(connection: Connection, order: Order, state: State, payment_id: str | None = None) -> Order:
    """Not for what it is already."""
    if order.state is state or state not in orders.ALLOWED[order.state]:
        return order
    return orders.move(connection, order, state, payment_id=payment_id or order.payment_id)
