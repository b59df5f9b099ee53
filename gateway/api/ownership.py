"""Whose key is it? What is not the caller's is not there: 404, as if nobody had it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gateway.api.identity import Identity, Kind
from gateway.credits.provider import ApiKey, CreditsProvider
from gateway.errors import Invalid, NotFound

UserId = Annotated[str, Field(pattern=r"^[!-~]{1,128}$", examples=["alice"])]
"""As credits/checks.py has it: bytes that look alike to nobody, and fit a header."""
KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{3,255}$", examples=["key_a645272ef78a56bcead3"])]
KEY_ID_FIELD = {"key_id": "The key's public name."}
LOOKS_MAX = 10
"""Pages of keys that are looked through for a user's only one."""


async def find_own(provider: CreditsProvider, identity: Identity, key_id: str) -> ApiKey:
    """The key of that id. Raises NotFound."""
    if identity.key is not None:
        if identity.key.key_id != key_id:
            raise _no_such_key()
        return identity.key
    key = await provider.get(key_id)
    if key is None or not identity.owns(key.key_id, key.user_id):
        raise _no_such_key()
    return key


async def choose_key(provider: CreditsProvider, identity: Identity, key_id: str | None) -> ApiKey:
    """The key of that id; without one, the caller's only one. Raises NotFound, Invalid."""
    if key_id is not None:
        return await find_own(provider, identity, key_id)
    if identity.key is not None:
        return identity.key
    if identity.kind is Kind.ADMIN:
        raise Invalid("Say which key.", errors={"key_id": "is needed with the admin token"})
    found: list[ApiKey] = []
    after = ""
    for _ in range(LOOKS_MAX):
        page = await provider.list(identity.user_id, after=after, limit=100)
        found += [key for key in page if key.revoked_at is None]
        if len(found) > 1:
            raise Invalid("Say which key: you have several.", errors={"key_id": "is needed, for there are several"})
        if len(page) < 100:
            break
        after = page[-1].key_id
    if not found:
        raise NotFound("You have no key yet.")
    return found[0]


def _no_such_key() -> NotFound:
    return NotFound("There is no such key.")
