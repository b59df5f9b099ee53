"""Deletes what is done with and old: Stripe's events, and notifications that were sent or given up.

One process at a time, a few rows in a transaction, with a pause after each, so that no call waits for it. What is still
to be done stays, however old it is. Orders and the ledger are books: they stay.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection

from gateway.billing import inbox, leases, outbox
from gateway.billing.loop import Loop
from gateway.credits.ledger import now_ms
from gateway.database.engine import Database

LEASE = "retention"
LEASE_MS = 600_000
EVERY_MS = 3_600_000
LOOK_SECONDS = 60.0
ROWS_AT_ONCE = 500
PAUSE_SECONDS = 0.05
DAY_MS = 86_400_000

Forget = Callable[[Connection, int, int], int]
"""Deletes some rows older than a time, at most so many; how many it were."""
KINDS: tuple[Forget, ...] = (inbox.forget, outbox.forget)


class Retention:
    """Keeps what is done with for `keep_days`."""

    def __init__(self, database: Database, keep_days: int) -> None:
        self._database = database
        self._keep_ms = keep_days * DAY_MS
        self._owner = secrets.token_hex(8)

    def loop(self) -> Loop:
        return Loop("retention", self.work, LOOK_SECONDS)

    async def work(self) -> None:
        """Once an hour, unless another process did."""
        take = partial(leases.take, name=LEASE, owner=self._owner, for_ms=LEASE_MS, every_ms=EVERY_MS)
        if not await self._database.transaction(take):
            return
        is_done = False
        try:
            for forget in KINDS:
                await self._forget(forget)
            is_done = True
        finally:
            await self._database.transaction(partial(leases.give_back, name=LEASE, owner=self._owner, is_done=is_done))

    async def _forget(self, forget: Forget) -> None:
        before = now_ms() - self._keep_ms
        count = ROWS_AT_ONCE
        while count == ROWS_AT_ONCE:
            count = await self._database.transaction(lambda connection: forget(connection, before, ROWS_AT_ONCE))
            await asyncio.sleep(PAUSE_SECONDS)
