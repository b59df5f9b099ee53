"""A gateway process that is killed, by -9, at a step of its choosing while it fulfils an order.

A step is the moment before or after anything that somebody else can see: a commit, a request to Stripe, one to Unkey.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from gateway.app import open_unkey_client
from gateway.billing.service import Billing, BillingSettings
from gateway.billing.stripe_api import StripeApi
from gateway.config.tree import UnkeySection
from gateway.credits.local import LocalProvider, Settings
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.provider import UnkeyProvider, UnkeySettings
from gateway.database.engine import Database, open_database
from gateway.deadlines import Deadlines

LIVENESS = {"heartbeat_seconds": 0.1, "dead_after_seconds": 0.4}


@dataclass(frozen=True)
class Life:
    """What the process is to do, and at which step to die (0: it lives, and writes down how many steps there are)."""

    database: str
    billing: BillingSettings
    unkey: dict[str, Any] | None
    deliveries: tuple[tuple[bytes, str], ...]
    dies_at: int
    steps_file: str


class Steps:
    """Counts them, and ends the process at the one."""

    def __init__(self, dies_at: int) -> None:
        self.count = 0
        self._dies_at = dies_at

    def take(self) -> None:
        self.count += 1
        if self.count == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type, name: str) -> None:
        """Before and after every call of that method."""
        method: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def stepped(*args: Any, **kwargs: Any) -> Any:
            self.take()
            result = await method(*args, **kwargs)
            self.take()
            return result

        setattr(owner, name, stepped)


def live(life: Life) -> None:
    """The process."""
    uvloop.run(_live(life))


async def _live(life: Life) -> None:
    database = open_database(life.database)
    deadlines = Deadlines(asyncio.get_running_loop(), tick_seconds=0.02)
    provider = _provider(life, database, deadlines)
    await provider.open()
    billing = Billing(database, provider, life.billing)
    steps = Steps(life.dies_at)
    steps.around(type(database), "transaction")
    steps.around(StripeApi, "_call")
    steps.around(UnkeyClient, "update_credits")
    for body, signature in life.deliveries:
        await billing.receive(body, signature)
    await billing._inbox._work()
    for _ in range(200):
        await billing._follow_up._work()
        if not await database.read(_read_paid):
            break
        await asyncio.sleep(0.02)
    Path(life.steps_file).write_text(str(steps.count))
    os._exit(0)


def _provider(life: Life, database: Database, deadlines: Deadlines) -> Any:
    if life.unkey is None:
        return LocalProvider(database, deadlines, Settings(**LIVENESS))
    client = open_unkey_client(UnkeySection.model_validate(life.unkey), deadlines)
    return UnkeyProvider(database, deadlines, client, UnkeySettings(**LIVENESS))


def _read_paid(connection: Any) -> bool:
    return bool(connection.exec_driver_sql("SELECT count(*) FROM orders WHERE state = 'paid'").scalar())
