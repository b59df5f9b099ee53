"""Everything the stand-in knows, in memory: as long as its process lives, whatever becomes of the gateway."""

from __future__ import annotations

from typing import Any

from gateway.sandbox.clock import Clock
from gateway.sandbox.unkey.balances import Balances
from gateway.sandbox.unkey.keys import Key, KeyTable
from gateway.sandbox.unkey.permissions import RootKey
from gateway.sandbox.unkey.ratelimits import Limiter
from gateway.sandbox.unkey.settings import Settings


class Database:
    """One workspace: its keys, their credits and rate limits, its APIs and its root keys by their secrets."""

    def __init__(
        self, clock: Clock, settings: Settings, root_keys: dict[str, RootKey], api_ids: tuple[str, ...]
    ) -> None:
        self.clock = clock
        self.settings = settings
        self.root_keys = root_keys
        self.api_ids = set(api_ids)
        self.keys = KeyTable()
        self.balances = Balances(clock, settings)
        self.limiter = Limiter(clock)
        self.last_used_ms: dict[str, int] = {}

    def key_document(self, key: Key) -> dict[str, Any]:
        """A key as getKey, whoami and listKeys show it: with the stored credits, not the live ones."""
        document: dict[str, Any] = {
            "keyId": key.key_id,
            "start": key.start,
            "enabled": key.enabled,
            "createdAt": key.created_at_ms,
        }
        remaining = self.balances.stored(key.key_id)
        optional = {
            "name": key.name,
            "meta": key.meta,
            "updatedAt": key.updated_at_ms or None,
            "lastUsedAt": self.last_used_ms.get(key.key_id),
            "expires": key.expires_ms,
            "permissions": list(key.permissions) or None,
            "roles": list(key.roles) or None,
            "credits": None if remaining is None else credits_document(remaining, key),
            "identity": self.identity_document(key),
            "ratelimits": [limit.document() for limit in key.ratelimits] or None,
        }
        document.update({name: value for name, value in optional.items() if value is not None})
        return document

    def identity_document(self, key: Key) -> dict[str, Any] | None:
        if key.external_id is None:
            return None
        return {"id": self.keys.identity_id(key.external_id), "externalId": key.external_id, "meta": {}}

    def run_refills(self) -> None:
        """What Unkey does at 00:00 UTC: stored credits below the refill's amount are raised to it."""
        for key in self.keys:
            if key.refill is not None:
                self.balances.refill(key.key_id, key.refill.amount)


def credits_document(remaining: int | None, key: Key) -> dict[str, Any]:
    document: dict[str, Any] = {"remaining": remaining}
    if key.refill is not None:
        document["refill"] = key.refill.document()
    return document
