"""Idempotency-Key: a request that is repeated with the same key is done once and answered alike.

    the same key, the same request      the first answer again: status and body
    … another request                   422
    … while the first is worked on      409, Retry-After
    … whose process has died            done again from where it was left

What makes a second try harmless: a key that the first had made is given a new secret instead of making another, and
whatever moves credits has a `reference` that is unique in SQL.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.api import records
from gateway.api.records import Record
from gateway.credits.ledger import now_ms
from gateway.database.engine import Database
from gateway.errors import CreditsUnavailable
from gateway.idempotency_key import REPLAYED, still_running, used_before
from gateway.sealing import Seal, Sealer

logger = logging.getLogger("gateway.api")

LEASE_SECONDS = 15.0
"""How long a request is its owner's without a word from it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it goes out."""

    status: int
    content_type: bytes
    body: bytes = field(repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Attempt:
    """One try at a request with an Idempotency-Key.

    `reference` names the request, whoever tries it; `key_id` is the key that a try before this one has made.
    """

    def __init__(self, database: Database, seal: Seal, owner: bytes, key_id: str | None) -> None:
        self.reference = seal.lookup.hex()
        self.key_id = key_id
        self._database = database
        self._lookup = seal.lookup
        self._owner = owner

    async def note_key(self, key_id: str) -> bool:
        """Write down that this request has made that key. False: somebody else has taken the request over."""
        return await self._database.transaction(
            lambda connection: records.note_key(connection, self._lookup, self._owner, key_id)
        )

    async def renew(self, owned_until: int) -> bool:
        return await self._database.transaction(
            lambda connection: records.renew(connection, self._lookup, self._owner, owned_until)
        )

    async def finish(self, status: int, answer: bytes) -> bool:
        return await self._database.transaction(
            lambda connection: records.finish(connection, self._lookup, self._owner, status, answer)
        )


# What answers, or raises where a repeat may be answered otherwise.
Work = Callable[[Attempt], Awaitable[Reply]]


class Idempotency:
    """Does requests once. `lease_seconds` is how long one belongs to a process that says nothing."""

    def __init__(self, database: Database, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = database
        self._sealer = Sealer()
        self._lease_ms = int(lease_seconds * 1000)
        self._renew_seconds = lease_seconds / 4

    async def run(self, identity: str, key: bytes, asked: bytes, work: Work) -> Reply:
        """The answer to what is `asked`, worked out at most once at a time. Raises Invalid, Conflict."""
        seal = await self._sealer.seal(identity, key)
        fingerprint, caller = hashlib.sha256(asked).digest(), hashlib.sha256(identity.encode("utf-8")).digest()
        owner, now = secrets.token_bytes(16), now_ms()
        record = await self._database.transaction(
            lambda connection: records.begin(connection, seal.lookup, caller, fingerprint, owner, now, self._lease_ms)
        )
        if record is not None:
            if record.fingerprint != fingerprint:
                raise used_before()
            if record.status is not None:
                return _repeat(record, seal)
            if record.owned_until > now:
                raise still_running()
        return await self._work(Attempt(self._database, seal, owner, record.key_id if record else None), seal, work)

    async def _work(self, attempt: Attempt, seal: Seal, work: Work) -> Reply:
        renewing = asyncio.create_task(self._renew(attempt), name="renew a request")
        is_kept = False
        try:
            reply = await work(attempt)
            sealed = seal.close(reply.body, _context(reply.status))
            is_kept = await attempt.finish(reply.status, sealed)
            if not is_kept:
                raise still_running()
            return reply
        finally:
            renewing.cancel()
            if not is_kept:
                await self._give_up(attempt)

    async def _renew(self, attempt: Attempt) -> None:
        while True:
            await asyncio.sleep(self._renew_seconds)
            try:
                if not await attempt.renew(now_ms() + self._lease_ms):
                    return
            except CreditsUnavailable as error:
                logger.warning("a request could not be renewed: %s", error.cause)

    async def _give_up(self, attempt: Attempt) -> None:
        """Let the next one try at once; else it has to wait for the lease to end."""
        try:
            await attempt.renew(0)
        except CreditsUnavailable:
            pass


def _repeat(record: Record, seal: Seal) -> Reply:
    assert record.status is not None
    assert record.answer is not None
    body = seal.open(record.answer, _context(record.status))
    if body is None:
        raise CreditsUnavailable(cause="a stored answer can't be opened: the row was changed")
    return Reply(record.status, content_type_of(record.status), body, (REPLAYED,))


def content_type_of(status: int) -> bytes:
    return b"application/json" if status < 400 else b"application/problem+json"


def _context(status: int) -> bytes:
    return b"%d" % status
