"""The unkey provider on a fresh database and a stand-in for Unkey, and the audit of both sides' books."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.app import open_unkey_client
from gateway.config.tree import UnkeySection
from gateway.credits.provider import Hold
from gateway.credits.unkey.canary import NOBODY
from gateway.credits.unkey.provider import UnkeyProvider, UnkeySettings
from gateway.database.engine import open_database
from gateway.deadlines import Deadlines
from gateway.sandbox.unkey.books import Received
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY, UnkeyServer
from gateway.sandbox.unkey.settings import Settings
from tests.credits.conftest import until
from tests.database.postgres import Query, rows, snapshot, url_of

VERIFY = "keys.verifyKey"
CROWD = 100


async def hold(provider: UnkeyProvider, secret: str, cost: int = 1, request_id: str = "r") -> Hold:
    return await provider.hold(secret.encode(), cost, "/x", request_id)


async def written(provider: UnkeyProvider) -> None:
    """Wait until everything that the provider ends in the background is in the database."""
    await until(lambda: not provider._spending._left and not provider.journal.pending)


class UnkeyLedger:
    """Opens providers on one database file and one stand-in, as so many processes would."""

    def __init__(self, database: Path | str, **settings: Any) -> None:
        self.url = url_of(database)
        self.path = Path(self.url.removeprefix("sqlite:///"))
        self.server = UnkeyServer(settings=Settings(**settings))
        self._open_count = 0
        self.section: dict[str, Any] = {}
        self._moment: Query | None = None

    @contextlib.asynccontextmanager
    async def provider(self, **settings: Any) -> AsyncIterator[UnkeyProvider]:
        """`section` holds what the configuration's credits.unkey is to say besides."""
        await self._start()
        database = open_database(self.url)
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

    def patient_provider(self) -> contextlib.AbstractAsyncContextManager[UnkeyProvider]:
        """One that answers late rather than not at all, for a crowd that a busy machine does not serve in time."""
        self.section["verify_timeout_seconds"] = 30
        return self.provider(hold_timeout_seconds=60)

    async def _start(self) -> None:
        if not self._open_count:
            await self.server.start()
        self._open_count += 1

    async def _stop(self) -> None:
        self._open_count -= 1
        if not self._open_count:
            await self.server.aclose()

    # The other side's books

    def fail(self, kind: str, call: str = "verifyKey", **switches: Any) -> None:
        """See gateway/sandbox/unkey/faults.py."""
        self.server.faults.set(kind=kind, call=call, **switches)

    def remaining(self, unkey_id: str) -> int:
        """What Unkey would let through for this key."""
        balances = self.server.database.balances
        live = balances.live(unkey_id)
        return (balances.stored(unkey_id) or 0) if live is None else live

    def verifies(self) -> list[Received]:
        """The verifications that callers caused, in the order in which Unkey received them."""
        return [
            received
            for received in self.server.books.requests
            if received.asked.call == VERIFY and NOBODY not in received.asked.raw_body
        ]

    def asked(self) -> list[int]:
        """The cost that each of them asked for."""
        return [int(json.loads(received.asked.raw_body)["credits"]["cost"]) for received in self.verifies()]

    # Ours, and both together

    def audit(self, taken: Mapping[str, int] | None = None) -> None:
        """The books balance: entries = what Unkey has, what our pools have, what is on its way and what is in doubt.

        Of what is in doubt anything from nothing to all may have been taken; `taken` says how much truly was, by key.
        """
        with self.at_one_moment():
            self._audit(taken)

    def _audit(self, taken: Mapping[str, int] | None) -> None:
        for number, key_id, unkey_id, balance, held, entries in self.rows(
            """SELECT k.id, k.key_id, k.unkey_id, k.balance, k.held, coalesce((SELECT sum(amount) FROM entries
               WHERE key = k.id), 0) FROM keys k"""
        ):
            drawn, asked = self.rows(
                """SELECT coalesce(sum(drawn), 0), coalesce(sum(asked), 0) FROM unkey_holds WHERE key = ?
                   OR (key = 0 AND key_hash IN (SELECT key_hash FROM keys WHERE id = ?
                       UNION SELECT key_hash FROM retired_keys WHERE key = ?))""",
                *(number, number, number),
            )[0]
            assert held == drawn, f"{key_id}: held {held}, drawn by open holds {drawn}"
            assert balance >= held >= 0
            if self.server.database.balances.stored(unkey_id) is None:
                continue  # unlimited
            there = self.remaining(unkey_id)
            doubtful = self._sum(
                """SELECT sum(amount) FROM doubts WHERE resolution IS NULL AND (key = ?
                   OR (key = 0 AND key_hash IN (SELECT key_hash FROM keys WHERE id = ?
                       UNION SELECT key_hash FROM retired_keys WHERE key = ?)))""",  # a key then never seen
                *(number, number, number),
            )
            pending = self._sum(
                "SELECT sum(amount) FROM grants WHERE key = ? AND state IN ('pending', 'sending')", number
            )
            granting = self._sum("SELECT sum(amount) FROM grants WHERE key = ? AND state = 'in_doubt'", number)
            unaccounted = entries - there - balance - asked - pending
            story = f"{key_id}: entries {entries}, there {there}, pool {balance}, asked {asked}, pending {pending}"
            if taken is None:
                assert min(0, granting) <= unaccounted <= doubtful + max(0, granting), f"{story}, doubts {doubtful}"
            else:
                truth = taken.get(key_id, 0)
                assert unaccounted == truth, f"{story}, doubts {doubtful}, of which {truth} were taken"
        self._audit_ends()

    def _audit_ends(self) -> None:
        doubled = self.rows(
            """SELECT request_id FROM (SELECT request_id FROM entries WHERE kind = 'spend' UNION ALL
               SELECT request_id FROM doubts UNION ALL SELECT request_id FROM unkey_holds)
               GROUP BY 1 HAVING count(*) > 1"""
        )
        served = self.rows(
            """SELECT e.request_id FROM entries e JOIN doubts d ON e.request_id = d.request_id WHERE e.kind = 'spend'"""
        )
        assert served == [], f"in doubt, and served: {served}"
        assert doubled == [], f"holds that ended twice, or ended and are open: {doubled}"

    def open_holds(self) -> int:
        return self.count("unkey_holds")

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    @contextlib.contextmanager
    def at_one_moment(self) -> Iterator[None]:
        """Our tables do not change in here, though a commit may be under way in its thread."""
        with snapshot(self.url) as moment:
            self._moment = moment
            try:
                yield
            finally:
                self._moment = None

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        if self._moment is not None:
            return self._moment(query, *values)
        return rows(self.url, query, *values)

    def _sum(self, query: str, *values: Any) -> int:
        return int(self.rows(query, *values)[0][0] or 0)
