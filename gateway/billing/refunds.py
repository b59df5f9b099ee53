"""Money that goes back takes its credits along, in proportion.

Level-triggered: whatever event there was, in whatever order, Stripe is asked how the payment stands now, and the order
is brought to what that means. `orders.looks` makes of two looks the later one count: who asked Stripe before somebody
else wrote down his answer asks again.

Credits go back only once they have arrived. Were those of an order clawed back that are still on their way, and never
arrive, its buyer would owe what he was never given.
"""

from __future__ import annotations

import logging
from functools import partial

from sqlalchemy import Connection

from gateway.billing import claws, orders
from gateway.billing.freezes import Freezes
from gateway.billing.fulfil import Fulfilment
from gateway.billing.orders import UNFREEZE, Order, State
from gateway.billing.outbox import Outbox
from gateway.billing.payments import Payment
from gateway.billing.stripe_api import StripeApi
from gateway.credits.ledger import now_ms
from gateway.credits.provider import CreditsProvider
from gateway.database.engine import Database
from gateway.errors import BillingUnavailable, CreditsUnavailable

logger = logging.getLogger("gateway.billing")

LOOKS_MAX = 10
LOOK_AGAIN_MS = 600_000


class Refunds:
    """Looks at payments, and claws back or reinstates."""

    def __init__(
        self,
        database: Database,
        provider: CreditsProvider,
        stripe: StripeApi,
        fulfilment: Fulfilment,
        freezes: Freezes,
        outbox: Outbox,
    ) -> None:
        self._database = database
        self._provider = provider
        self._stripe = stripe
        self._fulfilment = fulfilment
        self._freezes = freezes
        self._outbox = outbox

    async def look(self, payment_id: str) -> Order | None:
        """Bring the order of this payment to what its refunds and disputes mean. None: it is not ours.

        Raises BillingUnavailable, CreditsUnavailable, Stray.
        """
        for _ in range(LOOKS_MAX):
            order = await self._find(payment_id)
            if order is None or not order.is_credited:
                return order
            if await self._look(order, payment_id):
                return await self._database.read(partial(orders.find, order_id=order.id))
        raise BillingUnavailable(cause=f"too many look at the payment {payment_id} at once")

    async def _find(self, payment_id: str) -> Order | None:
        """The payment's order. What is refunded was paid: an order that does not know it yet is credited first."""
        order = await self._database.read(lambda db: orders.find_by_payment(db, payment_id))
        if order is not None and not order.is_open:
            return order
        checkout = await self._stripe.find_checkout_of(payment_id)
        return None if checkout is None else await self._fulfilment.settle(checkout)

    async def _look(self, order: Order, payment_id: str) -> bool:
        payment = await self._stripe.find_payment(payment_id)
        if payment is None:
            raise BillingUnavailable(cause=f"Stripe does not know the payment {payment_id} any more")
        if not await self._database.transaction(lambda db: self._learn(db, order, payment)):
            return False
        self._provider.kick()
        try:
            await self._freezes.settle()
        except CreditsUnavailable as error:
            logger.warning("a key is to be frozen or unfrozen later: %s", error.cause)
        return True

    def _learn(self, connection: Connection, order: Order, payment: Payment) -> bool:
        due = clawed_target(order.credits, payment)
        target = due if order.state is State.fulfilled else order.clawed
        look_at = None if target == due else now_ms() + LOOK_AGAIN_MS  # or as soon as they arrive
        is_frozen = payment.is_disputed or (payment.is_lost and order.resolution != UNFREEZE)
        values = {"clawed": target, "is_disputed": int(payment.is_disputed), "freeze_wanted": int(is_frozen)}
        if not orders.learn(connection, order, look_at=look_at, **values):
            return False
        if target == order.clawed:
            return True
        moved, what = abs(target - order.clawed), "claw" if target > order.clawed else "reinstate"
        reference = f"{what}:{order.id}:{target}:{order.looks + 1}"
        after = orders.must_find(connection, order.id)
        if target > order.clawed:
            claws.claw(connection, self._provider, after, moved, reference)
            self._outbox.tell_of_order(connection, "order.clawed_back", after, taken=moved)
        else:
            claws.reinstate(connection, self._provider, after, moved, reference)
            self._outbox.tell_of_order(connection, "order.reinstated", after, given=moved)
        logger.info("order %s: %d of its %d credits are clawed back", order.id, target, order.credits)
        return True


def clawed_target(credits: int, payment: Payment) -> int:
    """How many of an order's credits its refunds and disputes take: their share of the charge, rounded up."""
    if payment.amount <= 0:
        return 0
    return min(credits, -(-credits * payment.returned // payment.amount))
