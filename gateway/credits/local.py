"""The `local` provider: keys, balances and the ledger in the gateway's own database.

Spending goes through the journal (group commit), everything else through the Database's transactions; the heart beats,
buries the dead, ends their holds and deletes the counts of rate limits that are over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection

from gateway.credits import answers, instances, ledger, rate_windows, sales
from gateway.credits.batch import HOLDS, Transaction
from gateway.credits.capping import Capping
from gateway.credits.checks import (
    check_credits,
    check_grant,
    check_name,
    check_permissions,
    check_spend_caps,
    check_user_id,
)
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
from gateway.credits.secrets import PREFIX, new_secret
from gateway.credits.store import open_store
from gateway.credits.taking import take_hold
from gateway.database.engine import Database
from gateway.database.tables import HOLDS_PER_INSTANCE, holds
from gateway.deadlines import Deadlines
from gateway.errors import InvalidKey

logger = logging.getLogger("gateway.credits")

PREFIX_BYTES = PREFIX.encode()


@dataclass(frozen=True, slots=True)
class Settings:
    """How long a caller waits for a hold, how often we beat and when a silent process is dead, in seconds."""

    hold_timeout_seconds: float = 1.5
    heartbeat_seconds: float = 5
    dead_after_seconds: float = 20
    checkout: str | None = None


class LocalProvider:
    """Implements CreditsProvider. Use `open` and `aclose` around it, on one event loop."""

    def __init__(
        self,
        database: Database,
        deadlines: Deadlines,
        settings: Settings,
        *,
        on_commit: Callable[[int], None] | None = None,
        on_health: Callable[[bool, str], None] | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._capping = Capping(database, ledger.read_holds)
        self.heart = Heart(
            database,
            instances.read_orphans,
            beat_seconds=settings.heartbeat_seconds,
            dead_after_seconds=settings.dead_after_seconds,
            on_health=on_health,
            on_commit=on_commit,
            chores=(
                partial(rate_windows.prune, database, ledger.now_ms),
                answers.Pruner(database, holds, ledger.now_ms).forget,
            ),
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

    async def open(self) -> None:
        await self.heart.open(self.journal)

    async def aclose(self) -> None:
        """End what is queued, then leave: holds still open become orphans, for a survivor or the next start."""
        await self.heart.aclose()

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
        # Not a coroutine of its own: every wake-up of a call would pass through it.
        if not api_key.startswith(PREFIX_BYTES):
            raise InvalidKey
        return take_hold(self.journal, sha256(api_key).digest(), cost, route, request_id, policy, claim)

    def settle(self, hold: Hold, cost: int, reason: str | None = None, claim: Claim | None = None) -> Awaitable[None]:
        return self.journal.end(hold, cost, reason, claim)

    def keep(self, hold: Hold, claim: Claim | None = None) -> Awaitable[None]:
        return self.journal.end(hold, None, None, claim)

    async def keep_answer(self, hold: Hold, claim: Claim) -> None:
        await self._database.transaction(partial(answers.add, hold=hold.id, claim=claim))

    async def find_answer(self, claim: Claim) -> bytes | None:
        return await self._database.read(partial(answers.find, claim=claim))

    def release(self, hold: Hold, reason: str) -> Awaitable[None]:
        return self.journal.end(hold, 0, reason)

    # Keys and credits

    async def balance(self, key_id: str) -> Balance | None:
        return await self._database.ask(lambda connection: ledger.find_balance(connection, key_id))

    async def grant(self, key_id: str, amount: int, kind: str, reason: str, reference: str) -> Entry:
        check_grant(amount, kind, reference)
        return await self._database.transaction(
            lambda connection: ledger.grant(connection, key_id, amount, kind, reason, reference)
        )

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
        if credits is not None:
            check_credits("credits", credits)
        check_user_id(user_id)
        check_permissions(permissions)
        check_name(name)
        check_spend_caps(spend_caps)
        secret = new_secret()
        key = await self._database.transaction(
            lambda connection: ledger.insert_key(
                connection, secret, user_id, credits, name, expires_at, permissions, spend_caps
            )
        )
        return secret, key

    async def get(self, key_id: str) -> ApiKey | None:
        return await self._database.ask(lambda connection: ledger.find_key(connection, key_id))

    async def identify(self, api_key: bytes) -> ApiKey | None:
        if not api_key.startswith(PREFIX_BYTES):
            return None
        key_hash = sha256(api_key).digest()
        return await self._database.ask(lambda connection: ledger.find_key_by_hash(connection, key_hash))

    async def list(self, user_id: str | None = None, *, after: str = "", limit: int = 100) -> Sequence[ApiKey]:
        return await self._database.ask(lambda connection: ledger.list_keys(connection, user_id, after, limit))

    async def count_keys(self, user_id: str) -> int:
        return await self._database.ask(lambda connection: ledger.count_keys(connection, user_id))

    async def history(self, key_id: str, *, before: int | None = None, limit: int = 50) -> Sequence[Entry]:
        return await self._database.ask(lambda connection: ledger.history(connection, key_id, before, limit))

    async def revoke(self, key_id: str) -> bool:
        return await self._database.transaction(lambda connection: ledger.revoke_key(connection, key_id))

    async def enable(self, key_id: str, enabled: bool) -> bool:
        """Switch a key on or off without giving it up."""
        return await self._database.transaction(lambda connection: ledger.enable_key(connection, key_id, enabled))

    async def rotate(self, key_id: str) -> tuple[str, ApiKey] | None:
        secret = new_secret()
        key = await self._database.transaction(lambda connection: ledger.rotate_key(connection, key_id, secret))
        return None if key is None else (secret, key)

    async def cap(self, key_id: str, spend_caps: CapChanges) -> ApiKey | None:
        check_spend_caps(spend_caps)
        number = await self._database.read(lambda connection: ledger.find_number(connection, key_id))
        if number is None:
            return None
        await self._capping.change(number, spend_caps)
        return await self.get(key_id)

    # Nothing moves to anywhere else, so nothing can be in doubt.

    async def list_movements(self, *, unsettled: bool, limit: int = 100) -> Sequence[Movement]:  # noqa: ARG002
        return []

    async def find_movement(self, id: str) -> Movement | None:  # noqa: ARG002
        return None

    async def resolve_movement(self, id: str, resolution: str) -> Movement | None:  # noqa: ARG002
        return None

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
        """There is nobody to wake."""

    async def list_drift(self) -> Sequence[Drift]:
        return await self._database.read(sales.list_drift)

    def _open_transaction(self) -> Transaction:
        return Transaction(
            open_store(self._database, HOLDS, self.journal.unsure, self.journal.go_on),
            lambda: self.heart.instance * HOLDS_PER_INSTANCE + 1,
            checkout=self._settings.checkout,
            now_ms=ledger.now_ms,
        )
