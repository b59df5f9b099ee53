"""The database while everything in it is moved: no gateway beside it, nobody who waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.database.checkpoint import Checkpointer
from gateway.database.engine import Database, open_database
from gateway.database.sqlite import SqliteDatabase


@asynccontextmanager
async def open_for_moving(url: str) -> AsyncIterator[Database]:
    """Also where an import is not finished. Raises DatabaseError."""
    async with AsyncExitStack() as stack:
        database = await asyncio.to_thread(open_database, url)
        stack.push_async_callback(database.aclose)
        if isinstance(database, SqliteDatabase):
            # Without it the log of an import would grow as long as everything that is imported.
            checkpointer = Checkpointer(database.path)
            checkpointer.open()
            stack.push_async_callback(asyncio.to_thread, checkpointer.close)
        yield database
