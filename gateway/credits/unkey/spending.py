"""Holds with Unkey: the pool first, then `keys.verifyKey` with the rest.

    write the hold (durable) → ask Unkey → granted: serve, settle or release into the pool
                                         → refused: forget the hold, tell the caller
                                         → no answer: the credits are in doubt, 503

No verify whose bytes were sent is sent again, and none is given up because its caller left: what Unkey takes then goes
into the key's pool.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from hashlib import sha256
from typing import Any

from cachetools import TTLCache

from gateway.credits.batch import End
from gateway.credits.claims import Claim
from gateway.credits.journal import Journal
from gateway.credits.provider import NO_POLICY, Hold, Policy
from gateway.credits.unkey import adoption, books
from gateway.credits.unkey.books import Account
from gateway.credits.unkey.breaker import Breaker
from gateway.credits.unkey.canary import Canary
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.errors import UnkeyUnavailable
from gateway.credits.unkey.holds import Confirm, State, UnkeyHold, UnkeyTake
from gateway.credits.unkey.verdict import REFUSALS, REFUSES_THE_CALL, Verdict
from gateway.database.engine import Database
from gateway.deadlines import NEVER, Deadlines
from gateway.errors import (
    CreditsUnavailable,
    Forbidden,
    GatewayError,
    InvalidKey,
    KeyDisabled,
    KeyExpired,
    OutOfCredits,
    RateLimited,
)

logger = logging.getLogger("gateway.credits")

API_KEY_MAX_BYTES = 512
"""Unkey's limit; a longer key can't be one."""
CONFIRM_SECONDS = 0.1
"""A hold open for longer is written down as granted, so that the death of its process leaves no doubt about it."""
NEGATIVE_SECONDS = 5.0
"""How long a refused key is refused unasked: a flood of one unknown key costs Unkey one call in this time."""
NEGATIVE_MAX = 100_000
ACCOUNTS_MAX = 100_000
LEAVE_SECONDS = 2.5
"""How long closing waits for verifies whose callers have left."""


class Spending:
    """The hot half of the unkey provider. Watched by Deadlines for holds that should be confirmed."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        client: UnkeyClient,
        breaker: Breaker,
        canary: Canary,
        deadlines: Deadlines,
        *,
        checkout: str | None = None,
    ) -> None:
        self._database = database
        self._journal = journal
        self._client = client
        self._breaker = breaker
        self._canary = canary
        self._deadlines = deadlines
        self._checkout = checkout
        self._loop = asyncio.get_running_loop()
        self._accounts: dict[bytes, Account] = {}
        self._refused: TTLCache[bytes, type[GatewayError]] = TTLCache(NEGATIVE_MAX, NEGATIVE_SECONDS)
        self._introductions: dict[bytes, asyncio.Future[GatewayError | None]] = {}
        self._unconfirmed: deque[tuple[float, UnkeyHold]] = deque()
        self._left: set[asyncio.Task[None]] = set()
        self.deadline = NEVER

    def open(self) -> None:
        self._deadlines.watch(self)

    async def aclose(self) -> None:
        """Wait for verifies whose callers have left, so that what they took is written down."""
        self._deadlines.unwatch(self)
        if self._left:
            _, late = await asyncio.wait(self._left, timeout=LEAVE_SECONDS)
            for task in late:
                task.cancel()

    def forget(self, key_hash: bytes) -> None:
        """The key has just been made: what was said of it before does not count."""
        self._refused.pop(key_hash, None)

    # The story

    async def hold_known(
        self, api_key: bytes, cost: int, route: str, request_id: str, policy: Policy, claim: Claim
    ) -> Hold:
        """A hold with a claim, for which the key must have a row: what locks it keeps two from claiming the same."""
        key_hash = sha256(api_key).digest()
        if key_hash not in self._accounts:
            await self.hold(api_key, 0, route, request_id)
        account = self._accounts.get(key_hash)
        if account is None:
            raise CreditsUnavailable(cause="a key was forgotten as soon as it was known")
        began = self._loop.time()
        return await self._hold(api_key, key_hash, cost, route, request_id, policy, began, account, claim)

    def hold(
        self, api_key: bytes, cost: int, route: str, request_id: str, policy: Policy = NO_POLICY
    ) -> Coroutine[Any, Any, Hold]:
        """See CreditsProvider.hold."""
        # Not a coroutine of its own: every wake-up of a call would pass through it.
        key_hash = sha256(api_key).digest()
        began = self._loop.time()
        account = self._accounts.get(key_hash)
        if account is not None:
            return self._hold(api_key, key_hash, cost, route, request_id, policy, began, account)
        return self._introduce(
            api_key, key_hash, partial(self._hold, api_key, key_hash, cost, route, request_id, policy, began)
        )

    async def _hold(
        self,
        api_key: bytes,
        key_hash: bytes,
        cost: int,
        route: str,
        request_id: str,
        policy: Policy,
        began: float,
        account: Account | None,
        claim: Claim | None = None,
    ) -> UnkeyHold:
        self._breaker.admit()
        number = account.number if account is not None else 0
        future = self._loop.create_future()
        hold = await self._write(UnkeyTake(future, key_hash, cost, route, request_id, began, number, claim))
        try:
            verdict = await self._client.verify(
                api_key,
                hold.asked,
                policy,
                route,
                request_id,
                partial(self._finish_without_caller, hold, account),
                waited_seconds=self._waited(began),
            )
        except UnkeyUnavailable as error:
            self._unavailable(hold, error)
            raise
        except (asyncio.CancelledError, GatewayError):
            # The caller left before anything was sent. (Later, `_finish_without_caller` has taken over.)
            if not hold.is_left:
                self._drop(hold, State.REFUSED)
            raise
        except Exception as error:
            hold.cause = f"a defect: {type(error).__name__}"
            self._drop(hold, State.DOUBTFUL)
            raise
        self._breaker.succeeded()
        if verdict.code != "VALID":
            raise await self._refuse(hold, verdict, account)
        if account is None or (verdict.user_id and verdict.user_id != account.user_id):
            account = await self._adopt(hold, verdict)
        return self._grant(hold, verdict, account)

    async def _write(self, take: UnkeyTake) -> UnkeyHold:
        """The hold as it is before Unkey is asked: durable, so that whatever Unkey takes is known to be asked for."""
        if not take.number and not take.cost:
            return UnkeyHold(0, 0, "", "", 0, take.key_hash)  # nothing to write, and no row to look at
        written = self._journal.ask(take)
        try:
            hold = await written
        except asyncio.CancelledError:
            # Cancelled in the very turn in which the hold arrived: the future has it, and nobody else ever will.
            if written.done() and not written.cancelled() and written.exception() is None:
                self._drop(written.result(), State.REFUSED)
            raise
        except InvalidKey:
            self._accounts.pop(take.key_hash, None)
            raise
        assert isinstance(hold, UnkeyHold)
        return hold

    def _waited(self, began: float) -> float:
        """Seconds. Raises CreditsUnavailable where too few are left to ask Unkey: it would be in doubt for nothing."""
        waited = self._loop.time() - began
        if waited > self._client.patience_seconds:
            raise CreditsUnavailable(cause=f"after {waited:.1f} s there was no time left to ask Unkey")
        return waited

    def _grant(self, hold: UnkeyHold, verdict: Verdict, account: Account) -> UnkeyHold:
        hold.key, hold.key_id, hold.user_id = account.number, account.key_id, account.user_id
        hold.grant(verdict.credits)
        if verdict.rate_limit is not None:
            hold.quota = verdict.quota()
        if hold.id and hold.asked:
            due = self._loop.time() + CONFIRM_SECONDS
            self._unconfirmed.append((due, hold))
            if self.deadline == NEVER:
                self.deadline = due
        return hold

    # Unkey's other answers

    async def _refuse(self, hold: UnkeyHold, verdict: Verdict, account: Account | None) -> GatewayError:
        """Why the call is refused. Nothing was taken."""
        self._drop(hold, State.REFUSED)
        if not hold.key and verdict.code in REFUSES_THE_CALL:
            await self._write_account(hold.key_hash, verdict, verdict.credits)
        if verdict.code == "USAGE_EXCEEDED":
            return await self._out_of_credits(hold, verdict)
        if verdict.code == "RATE_LIMITED":
            return RateLimited(verdict.quota())
        if verdict.code == "INSUFFICIENT_PERMISSIONS":
            return Forbidden()
        if verdict.code == "NOT_FOUND" and not await self._canary.is_alive(account.unkey_id if account else None):
            # Every key looks unknown to a root key that may not verify: the fault is ours, not the caller's.
            return CreditsUnavailable(cause="Unkey says NOT_FOUND to the canary key: see the root key's permissions")
        self._accounts.pop(hold.key_hash, None)
        kind = REFUSALS.get(verdict.code)
        if kind is None:
            return InvalidKey(cause=f"Unkey said {verdict.code!r}, which this version does not know")
        self._refused[hold.key_hash] = kind
        return kind()

    async def _out_of_credits(self, hold: UnkeyHold, verdict: Verdict) -> OutOfCredits:
        asked = await self._database.read(lambda connection: books.read_asked(connection, hold.key, hold.id))
        return OutOfCredits(
            available=(verdict.credits or 0) + hold.drawn + hold.pool,
            held=hold.others + asked,
            cost=hold.cost,
            checkout=self._checkout,
        )

    def _unavailable(self, hold: UnkeyHold, error: UnkeyUnavailable) -> None:
        self._breaker.failed(error.cause)
        hold.cause = error.cause
        self._drop(hold, State.DOUBTFUL if error.possibly_executed else State.REFUSED)

    def _drop(self, hold: Hold, state: State) -> None:
        """End a hold that is not to be served. It is written in the background: the row as it is says enough."""
        assert isinstance(hold, UnkeyHold)
        hold.state = state
        self._end_unseen(hold, "refused")

    def _end_unseen(self, hold: UnkeyHold, reason: str) -> None:
        hold.is_ended = True
        if hold.id:
            self._journal.finish(End(None, hold, 0, reason, self._loop.time()))

    def _finish_without_caller(
        self, hold: UnkeyHold, account: Account | None, verification: Coroutine[Any, Any, Verdict]
    ) -> None:
        """The caller left while Unkey was asked. What it takes goes into the pool."""
        hold.is_left = True
        task = self._loop.create_task(self._finish(hold, account, verification), name="verify without caller")
        self._left.add(task)
        task.add_done_callback(self._left.discard)

    async def _finish(
        self, hold: UnkeyHold, account: Account | None, verification: Coroutine[Any, Any, Verdict]
    ) -> None:
        try:
            verdict = await verification
            self._breaker.succeeded()
            if verdict.code != "VALID":
                self._drop(hold, State.REFUSED)
                return
            self._grant(hold, verdict, account or await self._adopt(hold, verdict))
            self._end_unseen(hold, "abandoned")
        except UnkeyUnavailable as error:
            self._unavailable(hold, error)
        except GatewayError as error:
            logger.warning("%s: a verify whose caller left: %s", hold.request_id, error.cause or error)
        except Exception as error:
            logger.exception("%s: a verify whose caller left", hold.request_id)
            hold.cause = f"a defect: {type(error).__name__}"
            self._drop(hold, State.DOUBTFUL)

    # Keys seen for the first time

    async def _introduce(
        self, api_key: bytes, key_hash: bytes, ask: Callable[[Account | None], Awaitable[UnkeyHold]]
    ) -> UnkeyHold:
        """A hold of a key that this process does not know. One caller asks, the others wait for what becomes of it."""
        if not 0 < len(api_key) <= API_KEY_MAX_BYTES:
            raise InvalidKey
        while (other := self._introductions.get(key_hash)) is not None:
            error = await asyncio.shield(other)
            if error is not None:
                raise _again(error)
            account = self._accounts.get(key_hash)
            if account is not None:
                return await ask(account)
        refusal = self._refused.get(key_hash)
        if refusal is not None:
            raise refusal
        introduction = self._introductions[key_hash] = self._loop.create_future()
        error = None
        try:
            account = await self._database.read(lambda connection: books.find_account(connection, key_hash))
            if account is not None:
                self._remember(key_hash, account)
                self._introduced(key_hash, introduction, None)  # nobody need wait for what becomes of this call
            return await ask(account)
        except (InvalidKey, KeyDisabled, KeyExpired, CreditsUnavailable) as refused:
            error = refused
            raise
        finally:
            self._introduced(key_hash, introduction, error)

    def _introduced(
        self, key_hash: bytes, introduction: asyncio.Future[GatewayError | None], error: GatewayError | None
    ) -> None:
        if not introduction.done():
            del self._introductions[key_hash]
            introduction.set_result(error)

    async def _adopt(self, hold: UnkeyHold, verdict: Verdict) -> Account:
        """Write the key down, or its new owner. Unkey has taken the hold's credits already."""
        opening = None if verdict.credits is None or hold.key else verdict.credits + hold.asked
        try:
            account = await self._write_account(hold.key_hash, verdict, opening)
        except asyncio.CancelledError:
            if not hold.is_left:
                self._finish_without_caller(hold, None, _known(verdict))
            raise
        except GatewayError:
            hold.cause = "Unkey took them, but the key could not be written down"
            self._drop(hold, State.DOUBTFUL)
            raise
        if account is None:
            self._drop(hold, State.REFUSED)  # what Unkey took, it took from a key that was replaced
            raise InvalidKey
        if account.is_retired:
            self._grant(hold, verdict, account)
            self._end_unseen(hold, "rotated")
            raise InvalidKey
        return account

    async def _write_account(self, key_hash: bytes, verdict: Verdict, opening: int | None) -> Account | None:
        account = await self._database.transaction(
            lambda connection: adoption.adopt(connection, key_hash, verdict.key_id, verdict.user_id, opening)
        )
        if account is None or account.is_retired:
            self._refused[key_hash] = InvalidKey
        else:
            self._remember(key_hash, account)
        return account

    def _remember(self, key_hash: bytes, account: Account) -> None:
        if len(self._accounts) >= ACCOUNTS_MAX:
            self._accounts.clear()
        self._accounts[key_hash] = account

    # Ending

    def settle(self, hold: Hold, cost: int, reason: str | None = None, claim: Claim | None = None) -> Awaitable[None]:
        """See CreditsProvider.settle."""
        assert isinstance(hold, UnkeyHold)
        hold.is_ended = True
        return self._journal.end(hold, cost, reason, claim)

    def keep(self, hold: Hold, claim: Claim | None = None) -> Awaitable[None]:
        """See CreditsProvider.keep."""
        assert isinstance(hold, UnkeyHold)
        hold.is_answered = True
        return self._journal.end(hold, None, None, claim)

    def on_deadline(self, now: float) -> None:
        """Write down as granted what has been open for a while."""
        waiting = self._unconfirmed
        while waiting and (waiting[0][1].is_ended or waiting[0][0] <= now):
            _, hold = waiting.popleft()
            if not hold.is_ended:
                self._journal.finish(Confirm(None, hold, None, None, now))
        self.deadline = waiting[0][0] if waiting else NEVER


def _again(error: GatewayError) -> GatewayError:
    """The same refusal for another caller: an exception that is raised twice drags along both stories."""
    return type(error)(cause=error.cause)


async def _known(verdict: Verdict) -> Verdict:
    return verdict
