"""What a person does with orders and with events that could not be worked on: sees them, and decides.

Needs the books and the keeper of keys, not Stripe.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection

from gateway.billing import inbox, orders
from gateway.billing.crediting import Crediting
from gateway.billing.inbox import StripeEvent
from gateway.billing.orders import UNFREEZE, Order, State
from gateway.billing.outbox import Outbox
from gateway.config.tree import Config
from gateway.credits.ledger import now_ms
from gateway.credits.provider import CreditsProvider
from gateway.database.engine import Database
from gateway.errors import Conflict, Invalid

ORDER_WORDS = ("fulfil", "reject", "unfreeze", "done")
EVENT_WORDS = {"retry": "new", "ignore": "ignored"}


class OrderDesk:
    """Orders by `order_…`, dead events by `evt_…`."""

    def __init__(self, database: Database, crediting: Crediting) -> None:
        self._database = database
        self._crediting = crediting

    async def list_orders(self, *, is_all: bool, limit: int) -> Sequence[Order]:
        """Newest first: those that a person is asked about, or all."""
        return await self._database.read(partial(orders.list_orders, is_all=is_all, limit=limit))

    async def list_dead(self, *, limit: int) -> Sequence[StripeEvent]:
        """Events that are not worked on any more, newest first."""
        return await self._database.read(partial(inbox.list_dead, limit=limit))

    async def find_order(self, order_id: str) -> Order | None:
        return await self._database.read(partial(orders.find, order_id=order_id))

    async def find_event(self, event_id: str) -> StripeEvent | None:
        return await self._database.read(partial(inbox.find, event_id=event_id))

    async def resolve_order(self, order_id: str, word: str) -> Order | None:
        """A person's word: `fulfil` or `reject` what is in review, `unfreeze` the key of a lost dispute, or `done`
        with what was asked. None: there is no such order. Raises Conflict where the word does not apply, Invalid."""
        order = await self._database.transaction(lambda db: self._resolve(db, order_id, word))
        self._crediting.kick()
        return order

    async def resolve_event(self, event_id: str, word: str) -> StripeEvent | None:
        """`retry` a dead event, or `ignore` it. None: there is no such event. Raises Conflict, Invalid."""
        if word not in EVENT_WORDS:
            raise Invalid("No such resolution.", errors={"resolution": "retry or ignore"})
        if await self.find_event(event_id) is None:
            return None
        state = EVENT_WORDS[word]
        await self._database.transaction(partial(inbox.resolve, event_id=event_id, state=state))
        return await self.find_event(event_id)

    def _resolve(self, connection: Connection, order_id: str, word: str) -> Order | None:
        order = orders.lock(connection, order_id)
        if order is None:
            return None
        if word == "fulfil":
            _must_be_in_review(order)
            # What was refunded meanwhile is taken back at the next look.
            orders.decide(connection, order, "fulfilled", look_at=now_ms())
            return self._crediting.credit(connection, order, order.payment_id)
        if word == "reject":
            _must_be_in_review(order)
            orders.decide(connection, order, "rejected", needs_person=0)
            return orders.move(connection, order, State.failed)
        if word == UNFREEZE:
            if not order.is_frozen or order.is_disputed:
                raise Conflict("No lost dispute of this order keeps its key frozen.")
            return orders.decide(connection, order, UNFREEZE, freeze_wanted=0)
        if word == "done":
            if order.state is State.review:
                raise Conflict("It is in review: fulfil or reject it.")
            return orders.decide(connection, order, order.resolution, needs_person=0, cause=None)
        raise Invalid("No such resolution.", errors={"resolution": ", ".join(ORDER_WORDS)})


def make_desk(config: Config, database: Database, provider: CreditsProvider) -> OrderDesk:
    return OrderDesk(database, Crediting(provider, Outbox(is_on=config.notifications is not None)))


def _must_be_in_review(order: Order) -> None:
    if order.state is not State.review:
        raise Conflict(f"It is not in review but {order.state.value}.")
