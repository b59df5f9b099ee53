"""The stand-in's tables: keys with what was set on them (not their credits: balances.py), and who owns them."""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import secrets
from collections.abc import Iterator
from typing import Any

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
START_CHARACTERS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Ratelimit:
    """A rate limit that is kept with a key."""

    id: str
    name: str
    limit: int
    duration_ms: int
    auto_apply: bool

    def document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "limit": self.limit,
            "duration": self.duration_ms,
            "autoApply": self.auto_apply,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class Refill:
    """What a key's credits are raised to, every day or on a day of every month."""

    amount: int
    day: int | None

    def document(self) -> dict[str, Any]:
        if self.day is None:
            return {"interval": "daily", "amount": self.amount}
        return {"interval": "monthly", "amount": self.amount, "refillDay": self.day}


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """One row. Rows are never changed but replaced, so that a cache may keep the one it has read."""

    key_id: str
    api_id: str
    digest: bytes
    start: str
    created_at_ms: int
    updated_at_ms: int = 0
    name: str | None = None
    enabled: bool = True
    external_id: str | None = None
    meta: dict[str, Any] | None = None
    expires_ms: int | None = None
    permissions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    ratelimits: tuple[Ratelimit, ...] = ()
    refill: Refill | None = None


class KeyTable:
    """All keys that were not deleted."""

    def __init__(self) -> None:
        self._by_id: dict[str, Key] = {}
        self._by_digest: dict[bytes, str] = {}
        self._order: list[str] = []
        self._identities: dict[str, str] = {}

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_id.values())

    def get(self, key_id: str) -> Key | None:
        return self._by_id.get(key_id)

    def by_secret(self, secret: str) -> Key | None:
        key_id = self._by_digest.get(digest_of(secret))
        return None if key_id is None else self._by_id[key_id]

    def by_digest(self, digest: bytes) -> Key | None:
        key_id = self._by_digest.get(digest)
        return None if key_id is None else self._by_id[key_id]

    def put(self, key: Key) -> None:
        """Insert a row, or replace the one with its id."""
        if key.key_id not in self._by_id:
            bisect.insort(self._order, key.key_id)
        self._by_id[key.key_id] = key
        self._by_digest[key.digest] = key.key_id

    def delete(self, key: Key) -> None:
        del self._by_id[key.key_id]
        del self._by_digest[key.digest]
        self._order.remove(key.key_id)

    def page(self, api_id: str, external_id: str | None, cursor: str, limit: int) -> tuple[list[Key], str | None]:
        """Keys in the order of their ids from the cursor on, and the id that the next page begins with."""
        found: list[Key] = []
        for key_id in self._order[bisect.bisect_left(self._order, cursor) :]:
            key = self._by_id[key_id]
            if key.api_id != api_id or external_id not in (None, key.external_id):
                continue
            if len(found) == limit:
                return found, key_id
            found.append(key)
        return found, None

    def identity_id(self, external_id: str) -> str:
        """The identity of this owner, made when first asked for."""
        found = self._identities.get(external_id)
        return found or self._identities.setdefault(external_id, new_id("id"))


def digest_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def new_id(prefix: str) -> str:
    return f"{prefix}_{''.join(secrets.choice(BASE58) for _ in range(16))}"


def new_secret(prefix: str, length_bytes: int) -> tuple[str, str]:
    """A key's secret and its visible start."""
    number = int.from_bytes(secrets.token_bytes(length_bytes))
    digits = []
    while number:
        number, digit = divmod(number, len(BASE58))
        digits.append(BASE58[digit])
    random_part = "".join(reversed(digits)).rjust(length_bytes, BASE58[0])
    lead = f"{prefix}_" if prefix else ""
    return lead + random_part, lead + random_part[:START_CHARACTERS]
