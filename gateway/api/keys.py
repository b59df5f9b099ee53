"""API keys over HTTP: make, list, cap, revoke and rotate them. An API key itself may only look at itself: who found a
leaked key must not be able to lock its owner out, nor to spend more of its credits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from gateway.api.idempotency import Attempt
from gateway.api.identity import Identity, Kind
from gateway.api.key_caps import NewCaps, SpendCaps, changes_of, show_caps
from gateway.api.operation import EVERYBODY, OWNERS, AnyOperation, Asked, Model, Nothing, Operation, Request
from gateway.api.ownership import KEY_ID_FIELD, UserId, find_own
from gateway.api.pagination import Page, cut, key_cursor, read_key_cursor
from gateway.api.signup import Signup
from gateway.credits.ledger import now_ms
from gateway.credits.provider import CREDITS_MAX, ApiKey, CreditsProvider
from gateway.errors import Conflict, Forbidden, Invalid, NotFound
from gateway.idempotency_key import still_running

YEAR_9999_MS = 253_402_300_799_999


class NewKey(Asked):
    """What the key is to be. With a token of the app, the key is the token's user's; the admin says whose."""

    user_id: UserId | None = None
    """The owner's id in the app. Needed by the admin; others may only name themselves."""
    name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]+$", max_length=100)] | None = None
    """What it is for."""
    credits: Annotated[int, Field(ge=0, le=CREDITS_MAX)] | None = None
    """Credits it starts with: the admin's to say. Left out, it starts with the signup credits if its user has not had
    them yet, else with none."""
    expires_at: Annotated[int, Field(gt=0, le=YEAR_9999_MS)] | None = None
    """When it stops to work, in Unix milliseconds. Left out: never."""
    spend_caps: NewCaps | None = None
    """What it may spend in a day and in a month, beside what it has. Left out: all."""


class KeyChanges(Asked):
    """What is to change of a key."""

    spend_caps: NewCaps
    """What it may spend in a day and in a month. A cap that is not named stays as it is."""


class NewSecret(Model):
    """A key with its secret, which is shown this once."""

    api_key: str
    """The secret. It can't be shown again, only replaced."""
    key_id: str
    """The key's public name."""
    user_id: str
    """The owner's id in the app."""
    credits: int | None
    """What the key can spend now; null: without limit."""


class Key(Model):
    """A key without its secret. Times are Unix milliseconds."""

    key_id: str
    """The key's public name."""
    user_id: str
    """The owner's id in the app."""
    name: str | None
    """What it is for."""
    start: str
    """The secret's first characters, to tell keys apart."""
    available: int | None
    """Credits it can spend; null if it is unlimited."""
    held: int
    """Credits kept by its calls in flight."""
    unlimited: bool
    """Whether it is never out of credits."""
    enabled: bool
    """Whether it was not switched off."""
    created_at: int
    """When it was made."""
    expires_at: int | None
    """When it stops to work; null: never."""
    revoked_at: int | None
    """When it was revoked; null: it was not."""
    permissions: list[str]
    """What routes may ask of it."""
    spend_caps: SpendCaps
    """What it may spend in a day and in a month."""


class KeyPage(Model):
    """Keys, in the order of their ids."""

    api_keys: list[Key]
    """The keys of this page."""
    next_cursor: str | None
    """The `cursor` of the next page; null on the last."""


class WhichKeys(Page):
    """Whose keys, and which page of them."""

    user_id: UserId | None = None
    """Only this user's: the admin's to say."""


class Keys:
    """The handlers."""

    def __init__(self, provider: CreditsProvider, signup: Signup, *, per_user_max: int) -> None:
        self._provider = provider
        self._signup = signup
        self._per_user_max = per_user_max

    async def create(self, request: Request[NewKey, None]) -> NewSecret:
        body, attempt = request.body, request.attempt
        user_id = _owner_of_new(body, request.identity)
        if body.expires_at is not None and body.expires_at <= now_ms():
            raise Invalid("The key would be expired.", errors={"expires_at": "must be in the future"})
        secret, key = await self._make(user_id, body, attempt)
        if body.credits is None:
            amount = await self._signup.grant(user_id, key.key_id)
        else:
            amount = body.credits
            if amount and attempt is not None:
                await self._provider.grant(key.key_id, amount, "promo", "first credits", f"first:{key.key_id}")
        return NewSecret(api_key=secret, key_id=key.key_id, user_id=user_id, credits=amount)

    async def _make(self, user_id: str, body: NewKey, attempt: Attempt | None) -> tuple[str, ApiKey]:
        """The key, still without credits where the request may be tried again: they are granted under a reference."""
        if attempt is not None and attempt.key_id is not None:
            rotated = await self._provider.rotate(attempt.key_id)
            if rotated is not None:
                return rotated
        await self._check_room(user_id, 1)
        first = (body.credits or 0) if attempt is None else 0
        secret, key = await self._provider.create(
            user_id,
            credits=first,
            name=body.name,
            expires_at=body.expires_at,
            spend_caps=changes_of(body.spend_caps),
        )
        if attempt is not None and not await attempt.note_key(key.key_id):
            await self._provider.revoke(key.key_id)
            raise still_running()
        try:
            await self._check_room(user_id, 0)  # others may have made theirs at the same time
        except Conflict:
            await self._provider.revoke(key.key_id)
            raise
        return secret, key

    async def _check_room(self, user_id: str, more: int) -> None:
        """Raises Conflict where the user can't have so many more keys."""
        if await self._provider.count_keys(user_id) + more > self._per_user_max:
            raise Conflict(f"The user has {self._per_user_max} API keys, and may not have more. Revoke one first.")

    async def list(self, request: Request[None, WhichKeys]) -> KeyPage:
        query, identity = request.query, request.identity
        after = read_key_cursor(query.cursor)
        if identity.kind is not Kind.ADMIN and query.user_id not in {None, identity.user_id}:
            raise Forbidden("Only the admin may list another user's keys.")
        if identity.key is not None:
            return _page([identity.key] if not after else [], query.limit)
        user_id = query.user_id if identity.kind is Kind.ADMIN else identity.user_id
        return _page(await self._provider.list(user_id, after=after, limit=query.limit + 1), query.limit)

    async def change(self, request: Request[KeyChanges, None]) -> Key:
        key = await find_own(self._provider, request.identity, request.path["key_id"])
        changed = await self._provider.cap(key.key_id, changes_of(request.body.spend_caps))
        if changed is None:
            raise NotFound("There is no such key.")
        return _show(changed)

    async def revoke(self, request: Request[None, None]) -> None:
        key = await find_own(self._provider, request.identity, request.path["key_id"])
        await self._provider.revoke(key.key_id)

    async def rotate(self, request: Request[Nothing, None]) -> NewSecret:
        key = await find_own(self._provider, request.identity, request.path["key_id"])
        rotated = await self._provider.rotate(key.key_id)
        if rotated is None:
            raise Conflict("The key can't be rotated: it is revoked.")
        secret, key = rotated
        return NewSecret(api_key=secret, key_id=key.key_id, user_id=key.user_id, credits=key.available)

    def operations(self) -> Sequence[AnyOperation]:
        return [
            Operation(
                "createApiKey", "POST", "/api-keys", "Make an API key",
                "With a token of the app: a key of the token's user, with the signup credits if it is the user's first."
                " With the admin token: a key of `user_id`, with `credits` if they are said. The secret is in this"
                " answer and nowhere else. Who has `identity.keys_per_user_max` keys gets no more: 409.",
                self.create, OWNERS, NewSecret, 201, body=NewKey, changes=True, takes_idempotency_key=True,
                problems=(Conflict,),
            ),
            Operation(
                "listApiKeys", "GET", "/api-keys", "List API keys",
                "The caller's own, without secrets; for an API key that is itself alone, for the admin all of them.",
                self.list, EVERYBODY, KeyPage, query=WhichKeys,
            ),
            Operation(
                "changeApiKey", "PATCH", "/api-keys/{key_id}", "Change an API key's spend caps",
                "A cap of 0 to 1000000000 credits for a day or a month (UTC), or null to lift it. What has been spent"
                " in the running day and month counts. An API key may not do this, not even to itself.",
                self.change, OWNERS, Key, body=KeyChanges, changes=True, problems=(NotFound, Conflict),
                path_fields=KEY_ID_FIELD,
            ),
            Operation(
                "revokeApiKey", "DELETE", "/api-keys/{key_id}", "Revoke an API key",
                "It stops at once and can't be brought back. Doing it again changes nothing.",
                self.revoke, OWNERS, None, 204, changes=True, problems=(NotFound,), path_fields=KEY_ID_FIELD,
            ),
            Operation(
                "rotateApiKey", "POST", "/api-keys/{key_id}/rotate", "Give an API key a new secret",
                "`key_id`, credits and history stay; the old secret stops at once.",
                self.rotate, OWNERS, NewSecret, body=Nothing, changes=True, takes_idempotency_key=True,
                problems=(NotFound, Conflict), path_fields=KEY_ID_FIELD,
            ),
        ]  # fmt: skip


def _owner_of_new(body: NewKey, identity: Identity) -> str:
    """Raises Invalid, Forbidden."""
    if identity.kind is Kind.ADMIN:
        if body.user_id is None:
            raise Invalid("Say whose key it is.", errors={"user_id": "is needed"})
        return body.user_id
    if body.user_id not in {None, identity.user_id}:
        raise Forbidden("Only the admin may make keys for others.")
    if body.credits is not None:
        raise Forbidden("Only the admin may say how many credits a key starts with.")
    return identity.user_id


def _page(keys: Sequence[ApiKey], limit: int) -> KeyPage:
    shown, next_cursor = cut(keys, limit, lambda key: key_cursor(key.key_id))
    return KeyPage(api_keys=[_show(key) for key in shown], next_cursor=next_cursor)


def _show(key: ApiKey) -> Key:
    return Key(
        key_id=key.key_id,
        user_id=key.user_id,
        name=key.name,
        start=key.start,
        available=key.available,
        held=key.held,
        unlimited=key.available is None,
        enabled=key.enabled,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        permissions=list(key.permissions),
        spend_caps=show_caps(key.spend_caps),
    )
