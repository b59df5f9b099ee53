"""The `unkey` provider: keys and credits live at Unkey, every call is verified there; holds, allotments, the ledger and
what is in doubt are in our database beside it.

spending.py has the life of a hold, keys.py the keys, outbox.py how grants get to Unkey.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from gateway.credits import answers, ledger
from gateway.credits.checks import check_credits, check_grant
from gateway.credits.claims import Claim
from gateway.credits.heart import Heart
from gateway.credits.journal import Journal
from gateway.credits.provider import (
    NO_CHANGES,
    NO_POLICY,
    ApiKey,
    Balance,
    CapChanges,
    Drift,
    Entry,
    Hold,
    Movement,
    Policy,
    Progress,
)
from gateway.credits.store import open_store
from gateway.credits.unkey import books, movements, resolving, sales
from gateway.credits.unkey.canary import Canary
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.keys import UnkeyKeys
from gateway.credits.unkey.outbox import RESOLVE_SECONDS, Outbox
from gateway.credits.unkey.spending import Spending
from gateway.credits.unkey.transaction import HOLDS, UnkeyTransaction
from gateway.database.engine import Database
from gateway.database.tables import HOLDS_PER_INSTANCE, unkey_holds
from gateway.deadlines import Deadlines
from gateway.errors import InvalidKey


@dataclass(frozen=True, slots=True)
class UnkeySettings:
    """Times in seconds. `canary_key` is the secret of a key that Unkey must find; None: it is not checked."""

    hold_timeout_seconds: float = 1.5
    heartbeat_seconds: float = 5
    dead_after_seconds: float = 20
    resolve_seconds: float = RESOLVE_SECONDS
    canary_key: str | None = None
    checkout: str | None = None


class UnkeyProvider:
    """Implements CreditsProvider. Use `open` and `aclose` around it, on one event loop. It closes the client."""

    def __init__(
        self,
        database: Database,
        deadlines: Deadlines,
        client: UnkeyClient,
        settings: UnkeySettings,
        *,
        on_commit: Callable[[int], None] | None = None,
        on_health: Callable[[bool, str], None] | None = None,
        on_unkey_health: Callable[[bool, str], None] | None = None,
    ) -> None:
        self._database = database
        self._client = client
        self._checkout = settings.checkout
        self.heart = Heart(
            database,
            books.read_orphans,
            beat_seconds=settings.heartbeat_seconds,
            dead_after_seconds=settings.dead_after_seconds,
            on_health=on_health,
            on_commit=on_commit,
            chores=(answers.Pruner(database, unkey_holds, ledger.now_ms).forget,),
        )
        self.journal = Journal(
            self._open_transaction,
            asyncio.get_running_loop(),
            deadlines,
            timeout_seconds=settings.hold_timeout_seconds,
            is_remote=database.is_remote,
            on_commit=self.heart.committed,
            on_failure=self.heart.failed,
        )
        key = settings.canary_key
        self._canary = Canary(client, key.encode() if key else None, on_unkey_health)
        self._breaker = self._canary.breaker
        self._spending = Spending(
            database, self.journal, client, self._breaker, self._canary, deadlines, checkout=settings.checkout
        )
        self._outbox = Outbox(database, client, lambda: self.heart.instance, resolve_seconds=settings.resolve_seconds)
        self._keys = UnkeyKeys(database, client, self._outbox, self._spending.forget)

    async def open(self) -> None:
        await self.heart.open(self.journal)
        self._spending.open()
        self._outbox.open()
        await self._canary.open()

    async def aclose(self) -> None:
        await self._canary.aclose()
        await self._outbox.aclose()
        await self._spending.aclose()
        await self.heart.aclose()
        await self._client.aclose()

    # Spending

    def hold(
        self,
        api_key: bytes,
        cost: int,
        route: str,
        request_id: str,
        policy: Policy = NO_POLICY,
        claim: Claim | None = None,
    ) -> Coroutine[Any, Any, Hold]:
        if claim is not None:
            return self._spending.hold_known(api_key, cost, route, request_id, policy, claim)
        return self._spending.hold(api_key, cost, route, request_id, policy)

    def settle(self, hold: Hold, cost: int, reason: str | None = None, claim: Claim | None = None) -> Awaitable[None]:
        return self._spending.settle(hold, cost, reason, claim)

    def keep(self, hold: Hold, claim: Claim | None = None) -> Awaitable[None]:
        return self._spending.keep(hold, claim)

    async def keep_answer(self, hold: Hold, claim: Claim) -> None:
        await self._database.transaction(partial(answers.add, hold=hold.id, claim=claim))

    async def find_answer(self, claim: Claim) -> bytes | None:
        return await self._database.read(partial(answers.find, claim=claim))

    def release(self, hold: Hold, reason: str) -> Awaitable[None]:
        return self._spending.settle(hold, 0, reason)

    # Keys and credits

    async def balance(self, key_id: str) -> Balance | None:
        return await self._keys.balance(key_id)

    async def grant(self, key_id: str, amount: int, kind: str, reason: str, reference: str) -> Entry:
        return await self._keys.grant(key_id, amount, kind, reason, reference)

    async def create(
        self,
        user_id: str,
        *,
        credits: int | None,
        name: str | None = None,
        expires_at: int | None = None,
        permissions: Sequence[str] = (),
        spend_caps: CapChanges = NO_CHANGES,
    ) -> tuple[str, ApiKey]:
        return await self._keys.create(
            user_id, credits=credits, name=name, expires_at=expires_at, permissions=permissions, caps=spend_caps
        )

    async def get(self, key_id: str) -> ApiKey | None:
        return await self._keys.get(key_id)

    async def identify(self, api_key: bytes) -> ApiKey | None:
        key_hash = sha256(api_key).digest()
        if not await self._database.read(lambda db: books.find_row_by_hash(db, key_hash)):
            try:
                await self._spending.hold(api_key, 0, "", "")  # Unkey may know it; then it is written down
            except InvalidKey:
                return None
        return await self._keys.identify(key_hash)

    async def list(self, user_id: str | None = None, *, after: str = "", limit: int = 100) -> Sequence[ApiKey]:
        return await self._keys.list(user_id, after=after, limit=limit)

    async def count_keys(self, user_id: str) -> int:
        return await self._database.read(lambda connection: ledger.count_keys(connection, user_id))

    async def history(self, key_id: str, *, before: int | None = None, limit: int = 50) -> Sequence[Entry]:
        return await self._keys.history(key_id, before=before, limit=limit)

    async def revoke(self, key_id: str) -> bool:
        return await self._keys.revoke(key_id)

    async def enable(self, key_id: str, enabled: bool) -> bool:
        return await self._keys.enable(key_id, enabled)

    async def rotate(self, key_id: str) -> tuple[str, ApiKey] | None:
        return await self._keys.rotate(key_id)

    async def cap(self, key_id: str, spend_caps: CapChanges) -> ApiKey | None:
        return await self._keys.cap(key_id, spend_caps)

    # Sales

    def grant_in(
        self, connection: Connection, key_id: str, amount: int, kind: str, reason: str, reference: str
    ) -> Entry:
        check_grant(amount, kind, reference)
        return sales.grant(connection, key_id, amount, kind, reason, reference)

    def claw_in(self, connection: Connection, key_id: str, amount: int, reason: str, reference: str) -> int:
        check_credits("amount", amount, 1)
        return sales.claw(connection, key_id, amount, reason, reference)

    def progress_in(self, connection: Connection, reference: str) -> Progress | None:
        return sales.find_progress(connection, reference)

    def kick(self) -> None:
        self._outbox.kick()

    async def list_drift(self) -> Sequence[Drift]:
        return await self._keys.list_drift()

    # What is on its way, and what only a person can decide

    async def list_movements(self, *, unsettled: bool, limit: int = 100) -> Sequence[Movement]:
        return await self._database.read(lambda db: movements.list_movements(db, unsettled=unsettled, limit=limit))

    async def find_movement(self, id: str) -> Movement | None:
        return await self._database.read(lambda db: movements.find(db, id))

    async def resolve_movement(self, id: str, resolution: str) -> Movement | None:
        return await resolving.resolve(self._database, self._client, id, resolution)

    def _open_transaction(self) -> UnkeyTransaction:
        return UnkeyTransaction(
            open_store(self._database, HOLDS, self.journal.unsure, self.journal.go_on),
            lambda: self.heart.instance * HOLDS_PER_INSTANCE + 1,
            checkout=self._checkout,
            now_ms=ledger.now_ms,
        )
