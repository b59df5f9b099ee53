"""What happens after the 200: events become looks at Stripe, and what is on its way is seen to its end.

Any number of processes do this at once. An event belongs to whoever claimed it until its lease ends; what two do twice
is done once, by fulfilment and refunds themselves.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from sqlalchemy import Connection

from gateway.billing import claws, inbox, orders
from gateway.billing.crediting import Crediting
from gateway.billing.freezes import Freezes
from gateway.billing.fulfil import Fulfilment, Stray
from gateway.billing.inbox import Work
from gateway.billing.orders import State
from gateway.billing.refunds import LOOK_AGAIN_MS, Refunds
from gateway.credits.ledger import now_ms
from gateway.credits.provider import CreditsProvider
from gateway.database.engine import Database
from gateway.errors import GatewayError

logger = logging.getLogger("gateway.billing")

BATCH = 200
TOGETHER = 8
"""Objects that are looked at, at once: Stripe's limits are for all of us."""
LEASE_MS = 120_000


class InboxWorker:
    """Works off the inbox. `owner` names this process."""

    def __init__(self, database: Database, fulfilment: Fulfilment, refunds: Refunds, owner: str) -> None:
        self._database = database
        self._fulfilment = fulfilment
        self._refunds = refunds
        self._owner = owner

    async def work(self) -> None:
        """Everything that is due."""
        while await self._database.read(inbox.is_due):
            claim = partial(inbox.claim, owner=self._owner, until=now_ms() + LEASE_MS, limit=BATCH)
            batch = await self._database.transaction(claim)
            room = asyncio.Semaphore(TOGETHER)
            await asyncio.gather(*(self._do(work, room) for work in batch))

    async def _do(self, work: Work, room: asyncio.Semaphore) -> None:
        async with room:
            try:
                await self._look(work.object_id)
            except Exception as error:  # noqa: BLE001 - whatever it is, the event must not be lost, nor the others wait
                await self._fail(work, error)
            else:
                await self._database.transaction(lambda db: inbox.finish(db, work, self._owner))

    async def _look(self, object_id: str) -> None:
        if object_id.startswith("cs_"):
            await self._fulfilment.fulfil(object_id)
        else:
            await self._refunds.look(object_id)

    async def _fail(self, work: Work, error: Exception) -> None:
        if not isinstance(error, GatewayError):
            logger.error("an event could not be worked on", exc_info=error)
        cause = (error.cause or error.detail or error.title) if isinstance(error, GatewayError) else repr(error)
        is_final = isinstance(error, Stray)
        await self._database.transaction(lambda db: inbox.fail(db, work, self._owner, cause, is_final=is_final))


class FollowUp:
    """Sees to its end what an order's transaction could only begin."""

    def __init__(
        self,
        database: Database,
        provider: CreditsProvider,
        crediting: Crediting,
        refunds: Refunds,
        freezes: Freezes,
    ) -> None:
        self._database = database
        self._provider = provider
        self._crediting = crediting
        self._refunds = refunds
        self._freezes = freezes

    async def work(self) -> None:
        """One round: credits that have arrived, clawbacks that are known, keys to freeze, orders to look at."""
        for step in (self._arrive, self._settle_claws, self._freezes.settle, self._look):
            try:
                await step()
            except GatewayError as error:
                logger.warning("something waits for its next round: %s", error.cause or error)

    async def _arrive(self) -> None:
        after = ""
        while page := await self._database.read(partial(orders.read_paid, after=after, limit=100)):
            for order in page:
                if order.reference is not None and await self._has_ended(order.reference):
                    await self._database.transaction(partial(self._arrived, order_id=order.id))
            after = page[-1].id

    def _arrived(self, connection: Connection, order_id: str) -> None:
        order = orders.lock(connection, order_id)
        if order is not None and order.state is State.paid:
            self._crediting.arrive(connection, order)

    async def _settle_claws(self) -> None:
        after = ""
        while page := await self._database.read(partial(claws.read_open, after=after, limit=100)):
            for reference in page:
                if await self._has_ended(reference):
                    await self._database.transaction(
                        partial(claws.settle, provider=self._provider, reference=reference)
                    )
            after = page[-1]

    async def _look(self) -> None:
        for order in await self._database.read(partial(orders.read_to_look_at, limit=100)):
            due_at = None if order.payment_id is None else now_ms() + LOOK_AGAIN_MS
            await self._database.transaction(partial(orders.look_later, order_id=order.id, due_at=due_at))
            if order.payment_id is not None:
                await self._refunds.look(order.payment_id)

    async def _has_ended(self, reference: str) -> bool:
        progress = await self._database.read(partial(self._provider.progress_in, reference=reference))
        return progress is None or progress.state in {"applied", "failed"}
