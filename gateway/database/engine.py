"""The database as the rest of the gateway sees it: transactions that run off the event loop.

All SQL of the control plane is SQLAlchemy Core in functions of a Connection, which run in threads of the database's
own. Spending has a connection of its own (credits/journal.py). sqlite.py and postgres.py are the two kinds of database.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

Result = TypeVar("Result")


class DatabaseError(Exception):
    """The database can't be opened: the address, the file or its schema is wrong. The message tells what to do."""


class Database(ABC):
    """One database, shared by processes. `work` is a function of nothing but its connection: it may be run again.

    `is_remote`: a commit waits for a server.
    """

    is_remote: bool

    @abstractmethod
    async def transaction(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in one durable transaction. Once begun it completes even if the caller is cancelled meanwhile.

        Raises CreditsUnavailable where the database does not take it; the transaction is then rolled back.
        """

    @abstractmethod
    async def read(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` on one consistent snapshot. Raises CreditsUnavailable."""

    async def ask(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work`, which reads, by one statement: that is a snapshot by itself. Raises CreditsUnavailable."""
        return await self.read(work)

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    @abstractmethod
    def close(self) -> None:
        """Come to an end with what is under way, but do not wait for it for ever."""


def open_database(url: str, *, migrates: bool = False) -> Database:
    """Open the database that `url` names. Raises DatabaseError.

    SQLite: made and migrated where need be. PostgreSQL: its schema must be this version's, unless `migrates`.
    """
    if is_postgres(url):
        from gateway.database.postgres import open_postgres  # only who uses it waits for its driver

        return open_postgres(url, migrates=migrates)
    from gateway.database.sqlite import open_sqlite

    return open_sqlite(url)


def is_postgres(url: str) -> bool:
    return url.startswith(("postgresql:", "postgresql+psycopg:", "postgres:"))
