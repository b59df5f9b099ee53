"""Tells the app when a key runs low or empty: once when a threshold is crossed, again only after it had risen.

Calls know nothing of this. Every few seconds one process reads which keys have new entries since it last looked, and
what is left on them: what is told is what the last entry says, open holds not counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, select, update

from gateway.billing import leases
from gateway.billing.outbox import Outbox
from gateway.database.billing_tables import low_keys
from gateway.database.engine import Database
from gateway.database.insert import has_passed, insert_once, read_fence
from gateway.database.tables import entries, keys

logger = logging.getLogger("gateway.billing")

LEASE = "low-balances"
LEASE_MS = 60_000
ENTRIES_AT_ONCE = 20_000
"""Of the ledger, in one look: calls wait for nobody who only reads, but a long read keeps the log from being copied."""
KEYS_AT_ONCE = 500
EXHAUSTED = 0
FENCE_SECONDS = 0.05
FENCE_LOOKS = 40


class LowBalances:
    """`thresholds` are in credits: a key with less is low; one with none is exhausted. `owner` names this process."""

    def __init__(
        self, database: Database, outbox: Outbox, thresholds: Sequence[int], owner: str, *, every_seconds: float
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._thresholds = tuple(sorted(thresholds))
        self._owner = owner
        self._every_ms = int(every_seconds * 1000)

    async def work(self) -> None:
        """Look at what has moved, unless another process did just now."""
        take = partial(leases.take, name=LEASE, owner=self._owner, for_ms=LEASE_MS, every_ms=self._every_ms)
        if not await self._database.transaction(take):
            return
        is_done = False
        try:
            while await self._look():
                pass
            is_done = True
        finally:
            await self._database.transaction(partial(leases.give_back, name=LEASE, owner=self._owner, is_done=is_done))

    async def _look(self) -> bool:
        """One stretch of the ledger. False at its end."""
        behind = await self._behind()
        if behind is None:
            return False
        start, end, numbers = await self._database.read(partial(_read_moved, behind=behind))
        for at in range(0, len(numbers), KEYS_AT_ONCE):
            some = numbers[at : at + KEYS_AT_ONCE]
            crossed = await self._database.read(partial(self._find_crossed, numbers=some))
            if crossed:
                await self._database.transaction(partial(self._tell, crossed=crossed))
        if end > start:
            await self._database.transaction(partial(leases.move_position, name=LEASE, position=end))
        return end - start >= ENTRIES_AT_ONCE and bool(numbers)

    async def _behind(self) -> int | None:
        """Behind which entry nothing can appear any more. None: that takes too long, so look another time."""
        # Not a read: its one snapshot would be older than the last number.
        last, fence = await self._database.transaction(read_fence)
        for _ in range(FENCE_LOOKS):
            if await self._database.transaction(partial(has_passed, fence=fence)):
                return last + 1
            await asyncio.sleep(FENCE_SECONDS)
        return None

    def _find_crossed(self, connection: Connection, numbers: Sequence[int]) -> list[Any]:
        """Of these keys, those whose lowest threshold is not the one that was told."""
        query = (
            select(keys.c.id, keys.c.key_id, keys.c.user_id, entries.c.balance_after, low_keys.c.threshold)
            .join(entries, entries.c.id == keys.c.last_entry)
            .join(low_keys, low_keys.c.key == keys.c.id, isouter=True)
            .where(keys.c.id.in_(numbers), entries.c.balance_after.is_not(None))
        )
        return [row for row in connection.execute(query) if self._threshold(row.balance_after) != row.threshold]

    def _threshold(self, balance: int) -> int | None:
        """The lowest that it is below; None if it is below none."""
        if balance <= EXHAUSTED:
            return EXHAUSTED
        return next((threshold for threshold in self._thresholds if balance < threshold), None)

    def _tell(self, connection: Connection, crossed: Sequence[Any]) -> None:
        for row in crossed:
            threshold = self._threshold(row.balance_after)
            if threshold is None:
                connection.execute(delete(low_keys).where(low_keys.c.key == row.id))
                continue
            if not insert_once(connection, low_keys, {"key": row.id, "threshold": threshold}):
                connection.execute(update(low_keys).where(low_keys.c.key == row.id).values(threshold=threshold))
            if row.threshold is None or threshold < row.threshold:
                members = {"key_id": row.key_id, "user_id": row.user_id, "balance": row.balance_after}
                if threshold == EXHAUSTED:
                    self._outbox.tell(connection, "credits.exhausted", members)
                else:
                    self._outbox.tell(connection, "credits.low", members | {"threshold": threshold})


def _read_moved(connection: Connection, behind: int) -> tuple[int, int, list[int]]:
    """From which entry on, up to which, and the keys they are of. The first look ever begins at the ledger's end."""
    start = leases.read_position(connection, LEASE)
    if not start:
        return 0, behind, []
    end = min(behind, start + ENTRIES_AT_ONCE)
    moved = select(entries.c.key).where(entries.c.id >= start, entries.c.id < end).distinct()
    return start, end, list(connection.execute(moved).scalars())
