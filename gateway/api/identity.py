"""Who is calling the control plane: an API key, a user of the app with a token of it, or the admin.

One credential, in one place: `Authorization: Bearer …` for all three, or `X-API-Key` for an API key. None is 401, and
so are two: who reads the first of them would let in another caller than who reads the last.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gateway.credits.provider import ApiKey, CreditsProvider
from gateway.errors import InvalidKey, KeyDisabled, KeyExpired, MissingKey

if TYPE_CHECKING:
    from gateway.api.tokens import TokenReader

Headers = list[tuple[bytes, bytes]]

CREDENTIAL_MAX_BYTES = 8_192
_VISIBLE = re.compile(rb"[!-~]+")
"""RFC 6750 section 2.1: a token is visible ASCII."""
_TOKEN = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
"""Three parts of base64url: a JWT. No API key has a dot in it."""


class Kind(StrEnum):
    """What somebody showed to say who they are."""

    KEY = "key"
    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is calling. `user_id` is "" for the admin; `key` is there for an API key alone."""

    kind: Kind
    user_id: str = ""
    key: ApiKey | None = None

    @property
    def name(self) -> str:
        """One text for each caller, so that what one of them says is never taken for another's."""
        return f"{self.kind}:{self.key.key_id if self.key is not None else self.user_id}"

    def owns(self, key_id: str, user_id: str) -> bool:
        """Whether that key of that user is this caller's business: itself, its user's, or anybody's for the admin."""
        if self.kind is Kind.ADMIN:
            return True
        if self.key is not None:
            return self.key.key_id == key_id
        return self.user_id == user_id


class Identifier:
    """Finds out who is calling. `admin_token` empty: nobody is admin. `tokens` None: no JWT is accepted."""

    def __init__(self, provider: CreditsProvider, admin_token: str, tokens: TokenReader | None) -> None:
        self._provider = provider
        self._admin = _digest(admin_token.encode("utf-8")) if admin_token else None
        self._tokens = tokens

    async def identify(self, headers: Headers) -> Identity:
        """Raises MissingKey, InvalidKey, KeyDisabled, KeyExpired, IdentityUnavailable, CreditsUnavailable."""
        credential, is_bearer = read_credential(headers)
        if is_bearer and self._admin is not None and hmac.compare_digest(_digest(credential), self._admin):
            return Identity(Kind.ADMIN)
        if is_bearer and self._tokens is not None and _TOKEN.fullmatch(credential):
            return Identity(Kind.USER, await self._tokens.read(credential.decode("ascii")))
        return await self._identify_key(credential)

    async def _identify_key(self, credential: bytes) -> Identity:
        key = await self._provider.identify(credential)
        if key is None:
            raise InvalidKey
        if not key.enabled:
            raise KeyDisabled
        if key.expires_at is not None and key.expires_at <= time.time_ns() // 1_000_000:
            raise KeyExpired
        return Identity(Kind.KEY, key.user_id, key)


def read_credential(headers: Headers) -> tuple[bytes, bool]:
    """The one credential of a request, and whether it is a bearer's. Raises MissingKey, InvalidKey."""
    found: list[tuple[bytes, bool]] = []
    for name, value in headers:
        if name == b"x-api-key":
            found.append((value, False))
        elif name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() != b"bearer":
                raise InvalidKey("Send it as `Authorization: Bearer …`.")
            found.append((token, True))
    if not found:
        raise MissingKey("Send an API key, a token of the app or the admin token as `Authorization: Bearer …`.")
    if len(found) > 1:
        raise InvalidKey("The request has more than one credential.")
    credential, is_bearer = found[0]
    if len(credential) > CREDENTIAL_MAX_BYTES or not _VISIBLE.fullmatch(credential):
        raise InvalidKey("This can't be a key or a token.")
    return credential, is_bearer


def _digest(credential: bytes) -> bytes:
    # Of one length, whatever the lengths: a comparison tells nothing, not even that.
    return hashlib.sha256(credential).digest()
