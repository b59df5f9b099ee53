"""The unkey provider on a fresh database and a stand-in for Unkey, and the audit of both sides' books."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway.app import open_unkey_client
from gateway.config.tree import UnkeySection
from gateway.credits.unkey.provider import UnkeyProvider, UnkeySettings
from gateway.database.engine import open_database
from gateway.deadlines import Deadlines
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY, UnkeyServer
from gateway.sandbox.unkey.settings import Settings


class UnkeyLedger:
    """Opens providers on one database file and one stand-in, as so many processes would."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.server = UnkeyServer(settings=Settings(**settings))
        self._open_count = 0
        self.section: dict[str, Any] = {}

    @contextlib.asynccontextmanager
    async def provider(self, **settings: Any) -> AsyncIterator[UnkeyProvider]:
        await self._start()
        database = open_database(f"sqlite:///{self.path}")
        deadlines = Deadlines(asyncio.get_running_loop(), tick_seconds=0.02)
        section = {"api_id": API_ID, "root_key": ROOT_KEY, "base_url": self.server.url, **self.section}
        client = open_unkey_client(UnkeySection.model_validate(section), deadlines)
        provider = UnkeyProvider(database, deadlines, client, UnkeySettings(**settings))
        await provider.open()
        try:
            yield provider
        finally:
            await provider.aclose()
            await database.aclose()
            deadlines.close()
            await self._stop()

    async def _start(self) -> None:
        if not self._open_count:
            await self.server.start()
        self._open_count += 1

    async def _stop(self) -> None:
        self._open_count -= 1
        if not self._open_count:
            await self.server.aclose()

    def remaining(self, unkey_id: str) -> int:
        """What Unkey would let through for this key."""
        balances = self.server.database.balances
        live = balances.live(unkey_id)
        return (balances.stored(unkey_id) or 0) if live is None else live

    def audit(self) -> None:
        """The books balance: granted - spent = what Unkey has, what our pools have, and what is in doubt."""
        for key_id, unkey_id, balance, held, entries in self.rows(
            """SELECT k.key_id, k.unkey_id, k.balance, k.held, coalesce((SELECT sum(amount) FROM entries
               WHERE key = k.id), 0) FROM keys k"""
        ):
            drawn, debited = self.rows(
                """SELECT coalesce(sum(drawn), 0), coalesce(sum(asked), 0) FROM unkey_holds h
                   JOIN keys k ON k.id = h.key WHERE k.key_id = ?""",
                key_id,
            )[0]
            assert held == drawn, f"{key_id}: held {held}, drawn by open holds {drawn}"
            assert balance >= held >= 0
            if self.server.database.balances.stored(unkey_id) is None:
                continue  # unlimited
            there = self.remaining(unkey_id)
            doubtful = self._sum(
                "SELECT sum(amount) FROM doubts d JOIN keys k ON k.id = d.key WHERE key_id = ?", key_id
            )
            on_the_way = self._sum(
                """SELECT sum(amount) FROM grants g JOIN keys k ON k.id = g.key
                   WHERE key_id = ? AND state IN ('pending', 'sending')""",
                key_id,
            )
            accounted = there + balance + debited + doubtful + on_the_way
            assert entries == accounted, f"{key_id}: entries {entries}, there {there}, pool {balance}, doubt {doubtful}"
        doubled = self.rows("SELECT request_id FROM entries WHERE request_id <> '' GROUP BY 1 HAVING count(*) > 1")
        assert doubled == [], f"holds that ended twice: {doubled}"

    def open_holds(self) -> int:
        return self.count("unkey_holds")

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query, values).fetchall()

    def _sum(self, query: str, *values: Any) -> int:
        return int(self.rows(query, *values)[0][0] or 0)
