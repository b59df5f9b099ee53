"""Brings grants to Unkey: `keys.updateCredits`, once each.

Unkey has no idempotency keys. So before a grant is sent, what the key had is written down; after a lost answer nothing
is sent again until the books tell whether it took effect: Unkey's count has moved by the calls alone, or by the calls
and the grant. What they can't tell, a person must (`gateway orders resolve`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Literal

import sqlalchemy.exc
from sqlalchemy import Connection

from gateway.credits.ledger import now_ms
from gateway.credits.unkey import grants
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.errors import UnkeyRefused, UnkeyUnavailable
from gateway.credits.unkey.grant import Evidence, Grant
from gateway.database.engine import Database
from gateway.errors import CreditsUnavailable, GatewayError

logger = logging.getLogger("gateway.credits")

LOOK_SECONDS = 1.0
"""Between two looks for grants that nobody announced: another process's, or postponed ones."""
RETRY_SECONDS_MAX = 300.0
RESOLVE_SECONDS = 60.0
"""How long after sending the books are asked about a grant in doubt: Unkey's stored count lags behind its live one."""
WAIT_SECONDS = 0.25
"""Between two looks at a grant that somebody waits for: another process may be the one that sends it."""
CLOSE_SECONDS = 5.0
"""How long closing waits for Unkey's answer to a grant that is under way."""
LOOKS_MAX = 5
"""Looks at a grant in doubt before a person is asked."""
FAR_AWAY_MS = 10**15


class Outbox:
    """A background task. `owner` gives the number under which this process is alive."""

    def __init__(
        self,
        database: Database,
        client: UnkeyClient,
        owner: Callable[[], int],
        *,
        resolve_seconds: float = RESOLVE_SECONDS,
    ) -> None:
        self._database = database
        self._client = client
        self._owner = owner
        self._resolve_ms = int(resolve_seconds * 1000)
        self._kicked = asyncio.Event()
        self._changed = asyncio.Event()
        self._unrecorded: deque[tuple[Grant, Callable[[Connection], None]]] = deque()
        self._looks: dict[int, int] = {}
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="outbox")

    async def aclose(self) -> None:
        """Stop, once what is being sent is answered. What is not in time becomes one in doubt, for a survivor or the
        next start."""
        self._is_closing = True
        self.kick()
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
            if late:
                self._task.cancel()
                await asyncio.wait([self._task])

    def kick(self) -> None:
        """Look for grants now."""
        self._kicked.set()

    async def settled(self, grant_id: int, timeout_seconds: float) -> Grant | None:
        """Have the grant sent now, by whichever process, and wait until it is done, not for ever: the grant then."""
        self.kick()
        looks = max(1, round(timeout_seconds / WAIT_SECONDS))
        for _ in range(looks):
            grant = await self._database.read(lambda db: grants.find(db, grant_id))
            if grant is None or grant.state not in {"pending", "sending"}:
                return grant
            await self._wait_for_change()
        logger.warning("grant %d is accepted, but not at Unkey yet", grant_id)
        return grant

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def _run(self) -> None:
        while True:
            self._kicked.clear()
            try:
                await self._bring()
            except GatewayError as error:
                logger.warning("grants wait: %s", error.cause or error)
            except Exception:
                logger.exception("the outbox failed; going on")
            if self._is_closing:
                return
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._kicked.wait()
            except TimeoutError:
                pass

    async def _bring(self) -> None:
        """Everything that is due, one after the other: grants are rare, and a key's must not overtake each other."""
        await self._write_down()
        orphans = await self._database.read(grants.count_orphans)
        if orphans:
            await self._database.transaction(lambda connection: grants.doubt_orphans(connection, self._resolve_ms))
            logger.warning("%d grants of dead processes are in doubt", orphans)
        for evidence in await self._database.read(lambda db: grants.read_doubtful(db, self._resolve_ms)):
            await self._look(evidence)
        while not self._is_closing and (due := await self._database.read(grants.read_due)):
            for grant in due:
                if not self._is_closing:
                    await self._send(grant)

    async def _send(self, grant: Grant) -> None:
        """One grant, once. Cancelled while it is under way, it is left `sending`, and so in doubt."""
        remaining = await self._read_remaining(grant)
        if remaining is None:
            return
        asked = grant.asked(remaining)
        if not asked:
            await self._record(grant, lambda db: grants.lack(db, grant))
            return
        owner = self._owner()
        sent = await self._database.transaction(lambda db: grants.claim(db, grant, owner, remaining))
        if sent is None:
            return
        operation: Literal["increment", "decrement"] = "increment" if asked > 0 else "decrement"
        try:
            after, _ = await self._client.update_credits(grant.unkey_id, operation, abs(asked))
        except UnkeyRefused as error:
            await self._fail(sent, error.cause)
        except UnkeyUnavailable as error:
            if error.possibly_executed:
                await self._doubt(sent, error.cause)
            else:
                await self._postpone(sent, error.cause)
        else:
            await self._record(sent, lambda db: grants.apply(db, sent, after))

    async def _read_remaining(self, grant: Grant) -> int | None:
        """What the key has at Unkey; None if the grant can't be sent now."""
        try:
            key = await self._client.get_key(grant.unkey_id)
        except GatewayError as error:
            await self._postpone(grant, error.cause)
            return None
        if key is None or key.credits is None:
            await self._fail(grant, "the key is gone at Unkey" if key is None else "the key is unlimited at Unkey")
            return None
        return key.credits

    async def _postpone(self, grant: Grant, cause: str) -> None:
        delay_seconds = min(RETRY_SECONDS_MAX, 2.0 ** min(grant.attempts, 10))
        due_at = now_ms() + int(delay_seconds * 1000)
        await self._record(grant, lambda db: grants.postpone(db, grant, due_at, cause))

    async def _doubt(self, grant: Grant, cause: str) -> None:
        logger.error("grant %d (%s) is in doubt: %s", grant.id, grant.reference, cause)
        due_at = now_ms() + self._resolve_ms
        await self._record(grant, lambda db: grants.doubt(db, grant, due_at, cause))

    async def _fail(self, grant: Grant, cause: str) -> None:
        logger.error("grant %d (%s) failed for good: %s", grant.id, grant.reference, cause)
        await self._record(grant, lambda db: grants.fail(db, grant, cause))

    async def _record(self, grant: Grant, work: Callable[[Connection], None]) -> None:
        """Write down what became of a grant. If the database does not take it, it is written when it does: a grant must
        not stay `sending` while its process lives."""
        self._unrecorded.append((grant, work))
        await self._write_down()

    async def _write_down(self) -> None:
        while self._unrecorded:
            grant, work = self._unrecorded[0]
            try:
                await self._database.transaction(work)
            except Exception as error:
                if _is_away(error):
                    raise
                await self._set_aside(grant, error)
            self._unrecorded.popleft()
            self._changed.set()

    async def _set_aside(self, grant: Grant, error: Exception) -> None:
        """What the database will never take must not keep every other grant waiting."""
        logger.error(
            "grant %d needs a person (gateway orders resolve): what became of it can't be written down",
            grant.id,
            exc_info=error,
        )
        try:
            await self._database.transaction(lambda db: grants.set_aside(db, grant, FAR_AWAY_MS))
        except Exception as another:
            if _is_away(another):
                raise
            logger.exception("grant %d can't be set aside", grant.id)

    async def _look(self, evidence: Evidence) -> None:
        """Ask the books whether a grant in doubt took effect."""
        grant = evidence.grant
        if grant.remaining_after is not None:  # it took effect, and some calls are to be awaited
            await self._record(grant, lambda db: grants.apply(db, grant, 0))
            return
        assert grant.remaining_before is not None
        try:
            key = await self._client.get_key(grant.unkey_id)
        except GatewayError:
            return  # Unkey does not answer: nothing can be told now
        if key is None or key.credits is None:
            await self._fail(grant, "the key is gone or unlimited at Unkey")
            return
        now = await self._database.read(lambda db: grants.read_evidence(db, grant, self._resolve_ms))
        if now is None:
            return  # somebody has found out meanwhile
        # Unkey was asked between two readings of our books: what changed from one to the other may be in its answer.
        uncertain = max(evidence.uncertain, now.uncertain) + abs(now.debited - evidence.debited)
        moved = key.credits - grant.remaining_before + now.debited
        asked = grant.asked(grant.remaining_before)
        tolerance = abs(asked) // 4
        if uncertain <= tolerance and abs(moved - asked) <= tolerance:
            remaining = key.credits
            await self._record(grant, lambda db: grants.apply(db, grant, remaining))
            logger.warning("grant %d had taken effect", grant.id)
        elif uncertain <= tolerance and abs(moved) <= tolerance:
            await self._record(grant, lambda db: grants.postpone(db, grant, now_ms(), "had not taken effect"))
            logger.warning("grant %d had not taken effect; it is sent again", grant.id)
        else:
            await self._look_later(grant, asked, moved)

    async def _look_later(self, grant: Grant, asked: int, moved: int) -> None:
        looks = self._looks[grant.id] = self._looks.get(grant.id, 0) + 1
        cause = f"Unkey's count moved by {moved} where {asked} or 0 would tell"
        due_at = now_ms() + self._resolve_ms
        if looks >= LOOKS_MAX:
            due_at = FAR_AWAY_MS
            logger.error("grant %d needs a person (gateway orders resolve): %s", grant.id, cause)
        await self._record(grant, lambda db: grants.doubt(db, grant, due_at, cause))


def _is_away(error: Exception) -> bool:
    """Whether the database takes nothing just now. If not, it was this work that it does not take."""
    refused = sqlalchemy.exc.IntegrityError, sqlalchemy.exc.DataError, sqlalchemy.exc.ProgrammingError
    return isinstance(error, CreditsUnavailable) and not isinstance(error.__cause__, refused)
