"""A process that grants one reference after the other, for ever: `python -m tests.e2e.granting SETTINGS`, as JSON.
Told the secrets of keys, it makes calls with them too.

It begins with the first reference whenever it is started, as somebody who does not know how far he got must.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

from gateway.app import open_unkey_client
from gateway.config.tree import UnkeySection
from gateway.credits.unkey.provider import UnkeyProvider, UnkeySettings
from gateway.database.engine import open_database
from gateway.deadlines import Deadlines
from gateway.errors import GatewayError

FIRST_AMOUNT = 10_000
"""Each reference has an amount of its own, so that Unkey's books tell its effects from the others'."""


@contextlib.asynccontextmanager
async def open_granter(database_file: Path, section: dict[str, Any], resolve_seconds: float) -> AsyncIterator[Any]:
    """A provider that looks at what is in doubt sooner than in operation."""
    database = open_database(f"sqlite:///{database_file}")
    deadlines = Deadlines(asyncio.get_running_loop())
    provider = UnkeyProvider(
        database,
        deadlines,
        open_unkey_client(UnkeySection.model_validate(section), deadlines),
        UnkeySettings(heartbeat_seconds=0.2, dead_after_seconds=1, resolve_seconds=resolve_seconds),
    )
    await provider.open()
    try:
        yield provider
    finally:
        await provider.aclose()
        await database.aclose()
        deadlines.close()


async def grant_for_ever(provider: Any, key_ids: list[str], workers: int) -> None:
    numbers = itertools.count()

    async def go_on() -> None:
        for number in numbers:
            try:
                await provider.grant(
                    key_ids[number % len(key_ids)], FIRST_AMOUNT + number, "purchase", "pack", f"order:{number}"
                )
            except GatewayError as error:
                print(number, type(error).__name__, error.cause, flush=True)

    await asyncio.gather(*(go_on() for _ in range(workers)))


async def call_for_ever(provider: Any, secret: str) -> None:
    while True:
        with contextlib.suppress(GatewayError):
            hold = await provider.hold(secret.encode(), 3, "/x", f"req_{os.urandom(8).hex()}")
            await asyncio.sleep(0.01)
            await provider.settle(hold, 2)
        await asyncio.sleep(0.01)


async def main() -> None:
    told = json.loads(sys.argv[1])
    async with open_granter(Path(told["database"]), told["section"], told["resolve_seconds"]) as provider:
        print("granting", flush=True)
        await asyncio.gather(
            grant_for_ever(provider, told["key_ids"], told["workers"]),
            *(call_for_ever(provider, secret) for secret in told["secrets"]),
        )


if __name__ == "__main__":
    uvloop.run(main())
