"""A key is switched off while a bank decides over one of its orders, and on again when the money is ours.

What is wanted is written with what was learnt; this makes it so, at the keeper of keys, as often as it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, select, update

from gateway.billing import leases
from gateway.credits.provider import CreditsProvider
from gateway.database.billing_tables import orders
from gateway.database.engine import Database
from gateway.errors import CreditsUnavailable, GatewayError

logger = logging.getLogger("gateway.billing")

UNSURE = 2
"""In the place of 0 and 1: the process that was switching the key may have died."""
LEASE_MS = 60_000
"""Longer than a keeper takes to switch a key: of two processes one must not undo what the other is doing."""


class Freezes:
    """`owner` names this process among those that share the database."""

    def __init__(self, database: Database, provider: CreditsProvider, owner: str) -> None:
        self._database = database
        self._provider = provider
        self._owner = owner

    async def settle(self) -> None:
        """Switch every key that is not as it is wanted; one that its keeper refuses to switch keeps no other waiting.
        Raises CreditsUnavailable."""
        for key_id in await self._database.read(_read_keys):
            try:
                await self._settle(key_id)
            except CreditsUnavailable:
                raise
            except GatewayError as error:
                logger.warning("key %s can't be frozen or unfrozen: %s", key_id, error.cause or error)

    async def _settle(self, key_id: str) -> None:
        name = f"freeze:{key_id}"
        if not await self._database.transaction(lambda db: leases.take(db, name, self._owner, for_ms=LEASE_MS)):
            return
        try:
            wanted = await self._database.transaction(lambda db: _begin(db, key_id))
            is_frozen = any(wanted.values())
            found = await self._provider.enable(key_id, not is_frozen)
            logger.warning("key %s is %s", key_id, "frozen" if is_frozen else "usable again" if found else "gone")
            await self._database.transaction(lambda db: _mark(db, wanted))
        finally:
            await self._database.transaction(lambda db: leases.give_back(db, name, self._owner, is_done=False))


def _read_keys(connection: Connection) -> Sequence[str]:
    query = select(orders.c.key_id).where(orders.c.freeze_wanted != orders.c.frozen).distinct()
    return list(connection.execute(query).scalars())


def _begin(connection: Connection, key_id: str) -> dict[str, int]:
    """By order, whether it wants its key frozen. Until it is done, nobody knows whether it is."""
    concerned = orders.c.key_id == key_id, (orders.c.freeze_wanted == 1) | (orders.c.frozen != 0)
    rows = connection.execute(select(orders.c.id, orders.c.freeze_wanted).where(*concerned)).all()
    connection.execute(update(orders).where(*concerned).values(frozen=UNSURE))
    return {row.id: row.freeze_wanted for row in rows}


def _mark(connection: Connection, done: dict[str, int]) -> None:
    """What was done, whatever is wanted by now."""
    for order_id, is_frozen in done.items():
        connection.execute(update(orders).where(orders.c.id == order_id).values(frozen=is_frozen))
