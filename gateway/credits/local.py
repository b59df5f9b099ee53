"""The `local` provider: keys, balances and the ledger in the gateway's own database.

Spending goes through the journal (group commit), everything else through the Database's transactions; a background
task beats, buries the dead and ends their holds.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from gateway.credits import instances, ledger
from gateway.credits.batch import Transaction
from gateway.credits.journal import Journal
from gateway.credits.provider import CREDITS_MAX, ApiKey, Balance, Entry, Hold
from gateway.credits.secrets import PREFIX, new_secret
from gateway.database.engine import Database, connect_sqlite
from gateway.database.tables import HOLDS_PER_INSTANCE
from gateway.deadlines import Deadlines
from gateway.errors import GatewayError, Invalid, InvalidKey

logger = logging.getLogger("gateway.credits")

GRANT_KINDS = frozenset({"signup", "purchase", "promo", "adjustment", "clawback", "reinstate"})
TAKING_KINDS = frozenset({"adjustment", "clawback"})
"""Kinds that may also take credits away."""
USER_ID = re.compile(r"[!-~]{1,128}")
"""It becomes a header's value on every call, and two spellings that look alike would be two users."""
PREFIX_BYTES = PREFIX.encode()
SIGN_OFF_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How long a caller waits for a hold, how often we beat and when a silent process is dead, in seconds."""

    hold_timeout_seconds: float = 2
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
        self._on_health = on_health
        self._failing = False
        self._instance = 0
        self._watch = instances.Watch(time.monotonic, settings.dead_after_seconds)
        self._heart: asyncio.Task[None] | None = None
        self._on_commit = on_commit
        self.journal = Journal(
            self._open_transaction,
            asyncio.get_running_loop(),
            deadlines,
            timeout_seconds=settings.hold_timeout_seconds,
            on_commit=self._committed,
            on_failure=self._failed,
        )

    async def open(self) -> None:
        self._instance = await self._database.transaction(instances.register)
        self.journal.open()
        await self._recover()
        self._heart = asyncio.create_task(self._beat_for_ever(), name="heartbeat")

    async def aclose(self) -> None:
        """End what is queued, then leave: holds still open become orphans, for a survivor or the next start."""
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait([self._heart])
        try:
            if not await self.journal.aclose():
                raise TimeoutError("a commit is still under way")
            async with asyncio.timeout(SIGN_OFF_SECONDS):
                await self._database.transaction(lambda connection: instances.unregister(connection, self._instance))
        except (GatewayError, TimeoutError) as error:
            cause = error.cause if isinstance(error, GatewayError) else str(error) or "the database does not answer"
            logger.warning("could not sign off; others will find out by the heartbeat: %s", cause)

    # Spending

    async def hold(self, api_key: bytes, cost: int, route: str, request_id: str) -> Hold:
        if not api_key.startswith(PREFIX_BYTES):
            raise InvalidKey
        taken = self.journal.take(sha256(api_key).digest(), cost, route, request_id)
        try:
            return await taken
        except asyncio.CancelledError:
            # Cancelled in the very turn in which the hold arrived: the future has it, and nobody else ever will.
            if taken.done() and not taken.cancelled() and taken.exception() is None:
                self.journal.end(taken.result(), 0, "abandoned")
            raise

    def settle(self, hold: Hold, cost: int, reason: str | None = None) -> Awaitable[None]:
        return self.journal.end(hold, cost, reason)

    def keep(self, hold: Hold) -> Awaitable[None]:
        return self.journal.end(hold, None, None)

    def release(self, hold: Hold, reason: str) -> Awaitable[None]:
        return self.journal.end(hold, 0, reason)

    # Keys and credits

    async def balance(self, key_id: str) -> Balance | None:
        return await self._database.read(lambda connection: ledger.find_balance(connection, key_id))

    async def grant(self, key_id: str, amount: int, kind: str, reason: str, reference: str) -> Entry:
        if kind not in GRANT_KINDS:
            raise Invalid("No such kind.", errors={"kind": f"one of {', '.join(sorted(GRANT_KINDS))}"})
        least = -CREDITS_MAX if kind in TAKING_KINDS else 1
        if amount == 0:
            raise Invalid("Nothing would change.", errors={"amount": "must not be 0"})
        _check_credits("amount", amount, least)
        return await self._database.transaction(
            lambda connection: ledger.grant(connection, key_id, amount, kind, reason, reference)
        )

    async def create(
        self, user_id: str, *, credits: int | None, name: str | None = None, expires_at: int | None = None
    ) -> tuple[str, ApiKey]:
        if credits is not None:
            _check_credits("credits", credits)
        if USER_ID.fullmatch(user_id) is None:
            raise Invalid("Not a user id.", errors={"user_id": "1 to 128 visible ASCII characters, without spaces"})
        secret = new_secret()
        key = await self._database.transaction(
            lambda connection: ledger.insert_key(connection, secret, user_id, credits, name, expires_at)
        )
        return secret, key

    async def get(self, key_id: str) -> ApiKey | None:
        return await self._database.read(lambda connection: ledger.find_key(connection, key_id))

    async def list(self, user_id: str | None = None, *, after: str = "", limit: int = 100) -> Sequence[ApiKey]:
        return await self._database.read(lambda connection: ledger.list_keys(connection, user_id, after, limit))

    async def history(self, key_id: str, *, before: int | None = None, limit: int = 50) -> Sequence[Entry]:
        return await self._database.read(lambda connection: ledger.history(connection, key_id, before, limit))

    async def revoke(self, key_id: str) -> bool:
        return await self._database.transaction(lambda connection: ledger.revoke_key(connection, key_id))

    async def enable(self, key_id: str, enabled: bool) -> bool:
        """Switch a key on or off without giving it up."""
        return await self._database.transaction(lambda connection: ledger.enable_key(connection, key_id, enabled))

    async def rotate(self, key_id: str) -> tuple[str, ApiKey] | None:
        secret = new_secret()
        key = await self._database.transaction(lambda connection: ledger.rotate_key(connection, key_id, secret))
        return None if key is None else (secret, key)

    # Staying alive, and cleaning up after those who did not

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            try:
                await self._beat()
                self._recovered()
                await self._recover()
            except GatewayError as error:
                self._watch.restart()
                self._failed(error.cause)
            except Exception:
                # A heart that stops lets the others bury a living process.
                logger.exception("the heartbeat failed; going on")

    async def _beat(self) -> None:
        if await self._database.transaction(lambda connection: instances.beat(connection, self._instance)):
            return
        logger.warning("instance %d had been taken for dead; going on under a new number", self._instance)
        self._instance = await self._database.transaction(instances.register)

    async def _recover(self) -> None:
        beats = await self._database.read(instances.read_beats)
        dead = self._watch.dead(beats, self._instance)
        if dead:
            await self._database.transaction(lambda connection: instances.bury(connection, dead))
        orphans = await self._database.read(instances.read_orphans)
        if not orphans:
            return
        for orphan in orphans:
            self.journal.end_orphan(orphan.hold, orphan.hold.cost if orphan.answered else 0)
        released = sum(not orphan.answered for orphan in orphans)
        logger.warning(
            "ended %d holds of dead processes: %d released, %d settled",
            len(orphans),
            released,
            len(orphans) - released,
        )

    def _open_transaction(self) -> Transaction:
        connection = connect_sqlite(self._database.path, synchronous="NORMAL")
        return Transaction(
            connection, lambda: self._instance * HOLDS_PER_INSTANCE + 1, checkout=self._settings.checkout
        )

    def _committed(self, size: int, is_read_only: bool) -> None:
        if self._failing and not is_read_only:
            self._recovered()
        if self._on_commit is not None:
            self._on_commit(size)

    def _recovered(self) -> None:
        if self._failing:
            self._failing = False
            logger.warning("the database takes holds again")
            if self._on_health is not None:
                self._on_health(True, "")

    def _failed(self, cause: str) -> None:
        if not self._failing:
            self._failing = True
            logger.error("the database does not take holds: %s", cause)
        if self._on_health is not None:
            self._on_health(False, "the database does not take holds")


def _check_credits(field: str, credits: int, least: int = 0) -> None:
    if type(credits) is not int or not least <= credits <= CREDITS_MAX:  # True is an int, but no number of credits
        raise Invalid("Not a number of credits.", errors={field: f"a whole number from {least} to {CREDITS_MAX}"})
