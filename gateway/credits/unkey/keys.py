"""Keys and their credits with Unkey as the provider: everything but spending.

Unkey says what a key has and whether it is enabled; our books add its allotment, its holds and its history, and refuse
at once what was revoked or rotated here, however long Unkey's caches go on answering for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row

from gateway.credits import ledger, spend_caps
from gateway.credits.capping import Capping
from gateway.credits.checks import (
    check_credits,
    check_expiry,
    check_grant,
    check_name,
    check_permissions,
    check_spend_caps,
    check_user_id,
)
from gateway.credits.provider import NO_CAPS, NO_CHANGES, ApiKey, Balance, CapChanges, Drift, Entry, SpendCaps
from gateway.credits.secrets import START_LENGTH, hash_secret
from gateway.credits.unkey import books, doubts, grants, sales
from gateway.credits.unkey.client import RemoteKey, UnkeyClient
from gateway.credits.unkey.outbox import Outbox
from gateway.database.engine import Database
from gateway.errors import Conflict, CreditsUnavailable, GatewayError, Invalid

logger = logging.getLogger("gateway.credits")

GRANT_SECONDS = 10.0
"""How long a grant waits to be at Unkey before it is left to the outbox."""
QUIET_SECONDS = 3.0
"""How long a rotation waits for calls that are asking Unkey with the old secret."""
STILL_SECONDS = 5.0
"""So long Unkey's count must stand still to be believed where it is more than our books say."""
LAG_SECONDS = 15.0
LAG_LOOK_SECONDS = 0.25
QUIET_LOOKS = 60
DRIFT_SECONDS = 1.0
"""Between two looks at a key that seems to drift."""


class UnkeyKeys:
    """The cold half of the unkey provider. `on_new` hears the hash of every secret that is made."""

    def __init__(
        self, database: Database, client: UnkeyClient, outbox: Outbox, on_new: Callable[[bytes], None]
    ) -> None:
        self._database = database
        self._client = client
        self._outbox = outbox
        self._on_new = on_new
        self._capping = Capping(database, books.read_holds)

    async def balance(self, key_id: str) -> Balance | None:
        """What the key can spend: Unkey's stored count, which lags behind its live one, and our allotment."""
        key = await self.get(key_id)
        return None if key is None else Balance(key.key_id, key.user_id, key.available, key.held)

    async def grant(self, key_id: str, amount: int, kind: str, reason: str, reference: str) -> Entry:
        """See CreditsProvider.grant. Returns when Unkey has it, or after a while with the grant still on its way."""
        check_grant(amount, kind, reference)
        done = await self._database.read(lambda db: grants.find_done(db, key_id, amount, kind, reference))
        if done is not None:
            entry, sent = done
            return entry if sent is None else await self._settled(entry, sent.id)
        remote = await self._remote(key_id)
        if remote is None:
            raise Invalid("There is no such key.", errors={"key_id": "unknown"})
        if remote.credits is None:
            raise Invalid("The key is unlimited.", errors={"key_id": "an unlimited key has no credits to add to"})
        remaining = remote.credits
        entry, grant_id = await self._database.transaction(
            lambda db: grants.accept(db, key_id, amount, kind, reason, reference, remaining)
        )
        return await self._settled(entry, grant_id)

    async def _settled(self, entry: Entry, grant_id: int) -> Entry:
        sent = await self._outbox.settled(grant_id, GRANT_SECONDS)
        if sent is not None and sent.state == "failed":
            raise Conflict(f"Unkey does not take it: {sent.cause}.")
        return entry

    async def create(
        self,
        user_id: str,
        *,
        credits: int | None,
        name: str | None = None,
        expires_at: int | None = None,
        permissions: Sequence[str] = (),
        caps: CapChanges = NO_CHANGES,
    ) -> tuple[str, ApiKey]:
        """See CreditsProvider.create. If the answer is lost, what Unkey made is a key whose secret nobody has."""
        if credits is not None:
            check_credits("credits", credits)
        check_user_id(user_id)
        check_permissions(permissions)
        check_name(name)
        check_expiry(expires_at)
        check_spend_caps(caps)
        unkey_id, secret = await self._client.create_key(
            user_id, credits=credits, name=name, expires_at=expires_at, permissions=permissions
        )
        capped = await self._database.transaction(
            lambda db: books.insert_key(db, secret, unkey_id, user_id, credits, name, expires_at, caps)
        )
        self._on_new(hash_secret(secret.encode("utf-8")))
        # Not read back: Unkey's replica may not have it yet, and the secret is told only once.
        key = ApiKey(
            key_id=unkey_id,
            user_id=user_id,
            name=name,
            start=secret[:START_LENGTH],
            available=credits,
            held=0,
            enabled=True,
            created_at=ledger.now_ms(),
            expires_at=expires_at,
            revoked_at=None,
            permissions=tuple(permissions),
            spend_caps=capped,
        )
        return secret, key

    async def get(self, key_id: str) -> ApiKey | None:
        row = await self._database.read(lambda db: books.find_row(db, key_id))
        remote = await self._client.get_key(row.unkey_id if row is not None else key_id)
        if row is None:
            return None if remote is None else _foreign(remote)
        return await self._join_now(row, remote)

    async def _join_now(self, row: Row[Any], remote: RemoteKey | None) -> ApiKey:
        """The key and its open holds as they are at one moment; the row may be older than Unkey's answer."""
        number = row.id
        now, caps, asked = await self._database.read(lambda db: (*_read(db, number), books.read_asked(db, number)))
        return _join(now, remote, caps, asked)

    async def identify(self, key_hash: bytes) -> ApiKey | None:
        """The key of this secret as our books and Unkey have it; None if it is in neither, or revoked."""
        row = await self._database.read(lambda db: books.find_row_by_hash(db, key_hash))
        if row is None or row.revoked_at is not None:
            return None
        remote = await self._client.get_key(row.unkey_id)
        return None if remote is None else await self._join_now(row, remote)

    async def list(self, user_id: str | None = None, *, after: str = "", limit: int = 100) -> Sequence[ApiKey]:
        """Keys of this API at Unkey, in the order of their ids there, from behind the key `after`."""
        found: list[ApiKey] = []
        cursor = await self._cursor(after)
        last = cursor
        while True:
            page, cursor = await self._client.list_keys(user_id=user_id, cursor=cursor, limit=100)
            fresh = [key for key in page if key.key_id != last]
            found += await self._join_all(fresh)
            if cursor is None or len(found) >= limit:
                return found[:limit]
            last = None

    async def history(self, key_id: str, *, before: int | None = None, limit: int = 50) -> Sequence[Entry]:
        return await self._database.ask(lambda db: ledger.history(db, key_id, before, limit))

    async def list_drift(self) -> Sequence[Drift]:
        """See CreditsProvider.list_drift. Calls go on meanwhile, so what differs is looked at a second time."""
        suspects = [drift.key_id async for drift in self._differing()]
        if not suspects:
            return []
        await asyncio.sleep(DRIFT_SECONDS)
        wanted = set(suspects)
        return [drift async for drift in self._differing() if drift.key_id in wanted]

    async def _differing(self) -> AsyncIterator[Drift]:
        cursor: str | None = None
        while True:
            page, cursor = await self._client.list_keys(user_id=None, cursor=cursor, limit=100)
            for drift in await self._database.read(partial(sales.find_drift, page=page)):
                yield drift
            if cursor is None:
                return

    async def revoke(self, key_id: str) -> bool:
        """Refused here at once; at Unkey too, before this returns."""
        row = await self._database.read(lambda db: books.find_row(db, key_id))
        if row is not None:
            await self._database.transaction(lambda db: books.revoke(db, row.id))
        found = await self._client.delete_key(row.unkey_id if row is not None else key_id)
        return found or row is not None

    async def enable(self, key_id: str, enabled: bool) -> bool:
        """Switch a key on or off without giving it up."""
        row = await self._database.read(lambda db: books.find_row(db, key_id))
        if row is not None and not enabled:
            await self._database.transaction(lambda db: books.enable(db, row.id, False))
        found = await self._client.update_key(row.unkey_id if row is not None else key_id, enabled=enabled)
        if row is not None and enabled:
            await self._database.transaction(lambda db: books.enable(db, row.id, True))
        return found or row is not None

    async def rotate(self, key_id: str) -> tuple[str, ApiKey] | None:
        """See CreditsProvider.rotate. The old secret stops here at once, before Unkey is asked for a new one.

        Unkey's reroll leaves the credits on the old key too (facts: rerollKey); it is deleted, and its name retired, so
        that nothing is spent twice. If Unkey's answer is lost, the old secret is dead and this can be called again.
        """
        row = await self._database.read(lambda db: books.find_row(db, key_id))
        if row is None or row.revoked_at is not None:
            return None
        await self._database.transaction(lambda db: books.retire(db, row.id, row.unkey_id))
        await self._quiet(row.id)
        before = await self._settled_count(row)
        rerolled = await self._client.reroll_key(row.unkey_id)
        if rerolled is None:
            return None
        unkey_id, secret = rerolled
        await self._database.transaction(lambda db: books.replace(db, row.id, unkey_id, secret))
        self._on_new(hash_secret(secret.encode("utf-8")))
        try:
            await self._client.delete_key(row.unkey_id)
        except GatewayError as error:
            logger.warning("the old key %s stays at Unkey, expired and retired: %s", row.unkey_id, error.cause)
        # Not read back, as in `create`: what Unkey had of the old key, the new one has.
        now, caps = await self._database.read(lambda db: _read(db, row.id))
        return secret, _join(now, before, caps, 0)

    async def cap(self, key_id: str, changes: CapChanges) -> ApiKey | None:
        """See CreditsProvider.cap. Unkey knows nothing of it."""
        check_spend_caps(changes)
        row = await self._database.read(lambda db: books.find_row(db, key_id))
        if row is None:
            if await self.get(key_id) is None:
                return None
            raise Conflict("The key was made at Unkey and not used here yet: it can get caps after its first call.")
        await self._capping.change(row.id, changes)
        return await self.get(key_id)

    async def _quiet(self, number: int) -> None:
        """Wait until what the old secret took is in the pool, and no grant is under way: the new key is made with what
        Unkey has left. Raises CreditsUnavailable while there is such a grant."""
        for _ in range(QUIET_LOOKS):
            asked = await self._database.read(lambda db: books.read_asked(db, number))
            is_sending = await self._database.read(lambda db: grants.is_sending(db, number))
            if not asked and not is_sending:
                return
            await asyncio.sleep(QUIET_SECONDS / QUIET_LOOKS)
        if is_sending:
            raise CreditsUnavailable(cause="a grant is on its way to the key that is to be rotated")
        logger.warning("rotating a key while calls of its old secret are asking Unkey")

    async def _settled_count(self, row: Row[Any]) -> RemoteKey | None:
        """The key as Unkey has it, once its last calls have reached the stored count: a reroll copies that, and would
        give back what is not in it yet. More than our books say, but standing still, is no lag (a refill, say).

        Raises CreditsUnavailable where the count goes on moving: try again later.
        """
        clock = asyncio.get_running_loop().time
        started = since = clock()
        last: int | None = None
        while True:
            remote = await self._client.get_key(row.unkey_id)
            if remote is None or remote.credits is None:
                return remote
            if not await self._database.read(partial(_may_lag, number=row.id, remote=remote)):
                return remote
            now = clock()
            if remote.credits != last:
                last, since = remote.credits, now
            if now - since >= STILL_SECONDS:
                logger.warning("rotating a key of which Unkey has more than our books, or as much with some in doubt")
                return remote
            if now - started >= LAG_SECONDS:
                raise CreditsUnavailable(cause="Unkey has not written down yet what the key's last calls took")
            await asyncio.sleep(LAG_LOOK_SECONDS)

    async def _remote(self, key_id: str) -> RemoteKey | None:
        row = await self._database.read(lambda db: books.find_row(db, key_id))
        return None if row is None else await self._client.get_key(row.unkey_id)

    async def _cursor(self, after: str) -> str | None:
        """Unkey's cursor is the id of the first key of the next page (its source, v2_apis_list_keys)."""
        if not after:
            return None
        row = await self._database.read(lambda db: books.find_row(db, after))
        return after if row is None else str(row.unkey_id)

    async def _join_all(self, remotes: Sequence[RemoteKey]) -> Sequence[ApiKey]:
        names = [remote.key_id for remote in remotes]

        def look(connection: Connection) -> tuple[dict[str, Row[Any]], Mapping[int, SpendCaps]]:
            rows = books.find_rows(connection, names)
            return rows, spend_caps.read(connection, rows.values(), ledger.now_ms())

        rows, caps = await self._database.read(look)
        return [
            _join(row, remote, caps.get(row.id, NO_CAPS), 0) if (row := rows.get(remote.key_id)) else _foreign(remote)
            for remote in remotes
        ]


def _may_lag(connection: Connection, number: int, remote: RemoteKey) -> bool:
    """Whether Unkey may have more of the key than it will have. Our books have more, too, while some is in doubt."""
    doubtful = doubts.read_open(connection, number)
    return any(drift.kept + doubtful > drift.ledger for drift in sales.compare(connection, [remote]))


def _read(connection: Connection, number: int) -> tuple[Row[Any], SpendCaps]:
    """Our side of the key, and its caps."""
    row = books.find_by_number(connection, number)
    return row, spend_caps.read_one(connection, row, ledger.now_ms())


def _join(row: Row[Any], remote: RemoteKey | None, caps: SpendCaps, asked: int) -> ApiKey:
    """A key as our books and Unkey have it together. `remote` None: it is gone there."""
    available: int | None = 0
    if remote is not None:
        available = None if remote.credits is None else remote.credits + row.balance - row.held
    return ApiKey(
        key_id=row.key_id,
        user_id=row.user_id,
        name=remote.name if remote is not None else row.name,
        start=row.start or (remote.start if remote is not None else ""),
        available=available,
        held=row.held + asked,
        enabled=bool(row.enabled) and remote is not None and remote.enabled,
        created_at=row.created_at,
        expires_at=remote.expires_at if remote is not None else row.expires_at,
        revoked_at=row.revoked_at,
        permissions=tuple(remote.permissions) if remote is not None else (),
        spend_caps=caps,
    )


def _foreign(remote: RemoteKey) -> ApiKey:
    """A key that was made at Unkey and has not been used here yet."""
    return ApiKey(
        key_id=remote.key_id,
        user_id=remote.user_id or remote.key_id,
        name=remote.name,
        start=remote.start,
        available=remote.credits,
        held=0,
        enabled=remote.enabled,
        created_at=remote.created_at,
        expires_at=remote.expires_at,
        revoked_at=None,
        permissions=tuple(remote.permissions),
    )
