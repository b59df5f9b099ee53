"""The calls that make, show, change and remove keys: everything but verifyKey.

They change the tables at once, and reach neither the regions' cached rows nor, with their credits, any region's live
counter but the first's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gateway.sandbox.unkey.answers import Refusal, api_not_found, invalid_input, key_not_found
from gateway.sandbox.unkey.database import Database, credits_document
from gateway.sandbox.unkey.keys import Key, Ratelimit, Refill, digest_of, new_id, new_secret
from gateway.sandbox.unkey.permissions import WORKSPACE, RootKey, lacks

SECRET_BYTES = 16
PAGE_MAX = 100
MINUTE_MS = 60_000


class Keeper:
    """Each call takes a body of the right shape and gives the `data` of its answer, or raises Refusal."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = database.keys
        self._balances = database.balances

    def create(self, body: dict[str, Any], root_key: RootKey) -> dict[str, Any]:
        api_id = body["apiId"]
        if api_id not in self._database.api_ids or not root_key.may("create_key", api_id):
            raise api_not_found()
        if body.get("recoverable"):
            raise _no_vault()
        credits_wish = body.get("credits", {})
        remaining = credits_wish.get("remaining")
        if "refill" in credits_wish and remaining is None:
            raise invalid_input("`credits.remaining` must be provided when `credits.refill` is set.")
        refill = _refill(credits_wish["refill"]) if "refill" in credits_wish else None
        secret, start = new_secret(body.get("prefix", ""), body.get("byteLength", SECRET_BYTES))
        key = Key(
            new_id("key"),
            api_id,
            digest_of(secret),
            start,
            self._database.clock.now_ms(),
            name=body.get("name"),
            enabled=body.get("enabled", True),
            external_id=body.get("externalId"),
            meta=body.get("meta"),
            expires_ms=body.get("expires"),
            permissions=tuple(body.get("permissions", ())),
            roles=tuple(body.get("roles", ())),
            ratelimits=_ratelimits(body.get("ratelimits", ())),
            refill=refill,
        )
        self._balances.open(key.key_id, remaining)
        self._keys.put(key)
        return {"keyId": key.key_id, "key": secret}

    def update_credits(self, body: dict[str, Any], root_key: RootKey) -> dict[str, Any]:
        key = self._find(body["keyId"], root_key, "update_key")
        value, operation = body.get("value"), body["operation"]
        if operation == "set":
            remaining = self._balances.set(key.key_id, value)
            if "value" in body and value is None:
                key = self._put(key, refill=None)
            return credits_document(remaining, key)
        if value is None:
            raise invalid_input("When specifying an increment or decrement operation, a value must be provided.")
        if self._balances.stored(key.key_id) is None:
            raise invalid_input("You cannot increment or decrement a key with unlimited credits.")
        change = self._balances.increment if operation == "increment" else self._balances.decrement
        return credits_document(change(key.key_id, value), key)

    def get(self, body: dict[str, Any], root_key: RootKey) -> dict[str, Any]:
        key = self._find(body["keyId"], root_key, "read_key")
        if body.get("decrypt"):
            raise _no_vault()
        return self._database.key_document(key)

    def whoami(self, body: dict[str, Any], root_key: RootKey) -> dict[str, Any]:
        key = self._keys.by_secret(body["key"])
        if key is None or not root_key.may("read_key", key.api_id):
            raise key_not_found()
        return self._database.key_document(key)

    def list(self, body: dict[str, Any], root_key: RootKey) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The page, and the `pagination` beside it."""
        api_id = body["apiId"]
        readable = root_key.may("read_key", api_id) and root_key.may("read_api", api_id)
        if api_id not in self._database.api_ids or not readable:
            raise api_not_found()
        if body.get("decrypt"):
            raise _no_vault()
        limit = body.get("limit", PAGE_MAX)
        page, cursor = self._keys.page(api_id, body.get("externalId"), body.get("cursor", ""), limit)
        pagination: dict[str, Any] = {"hasMore": cursor is not None}
        if cursor is not None:
            pagination["cursor"] = cursor
        return [self._database.key_document(key) for key in page], pagination

    def update(self, body: dict[str, Any], root_key: RootKey) -> dict[str, Any]:
        key = self._find(body["keyId"], root_key, "update_key")
        credits_change = _credits_change(body)
        fields = {"name": "name", "externalId": "external_id", "meta": "meta", "expires": "expires_ms"}
        changes = {ours: body[theirs] for theirs, ours in fields.items() if theirs in body}
        changes |= {name: tuple(body[name]) for name in ("roles", "permissions") if name in body}
        if "enabled" in body:
            changes["enabled"] = body["enabled"]
        if "ratelimits" in body:
            changes["ratelimits"] = _ratelimits(body["ratelimits"], key.ratelimits)
        if "refill" in credits_change:
            changes["refill"] = credits_change["refill"]
        self._put(key, updated_at_ms=self._database.clock.now_ms(), **changes)
        if "credits" in body:
            remaining = credits_change.get("remaining", self._balances.stored(key.key_id))
            self._balances.set(key.key_id, remaining)
        return {}

    def delete(self, body: dict[str, Any], root_key: RootKey) -> dict[str, Any]:
        self._keys.delete(self._find(body["keyId"], root_key, "delete_key"))
        return {}

    def reroll(self, body: dict[str, Any], root_key: RootKey) -> dict[str, Any]:
        """A new key like the old one. Both have the stored credits: the balance exists twice until the old one ends."""
        old = self._find(body["keyId"], root_key, "create_key")
        now_ms = self._database.clock.now_ms()
        prefix = old.start.split("_")[0] if "_" in old.start else ""
        secret, start = new_secret(prefix, SECRET_BYTES)
        new = dataclasses.replace(
            old,
            key_id=new_id("key"),
            digest=digest_of(secret),
            start=start,
            created_at_ms=now_ms,
            updated_at_ms=0,
            ratelimits=tuple(dataclasses.replace(limit, id=new_id("rl")) for limit in old.ratelimits),
        )
        self._balances.open(new.key_id, self._balances.stored(old.key_id))
        self._keys.put(new)
        grace_ms = body["expiration"]
        ends_ms = -(-(now_ms + grace_ms) // MINUTE_MS) * MINUTE_MS if grace_ms else now_ms
        self._put(old, expires_ms=ends_ms)
        return {"keyId": new.key_id, "key": secret}

    def _find(self, key_id: str, root_key: RootKey, action: str) -> Key:
        key = self._keys.get(key_id)
        if key is None or root_key.workspace != WORKSPACE:
            raise key_not_found()
        if not root_key.may(action, key.api_id):
            raise lacks(action, key.api_id)
        return key

    def _put(self, key: Key, **changes: Any) -> Key:
        changed = dataclasses.replace(key, **changes)
        self._keys.put(changed)
        return changed


def _refill(wish: dict[str, Any]) -> Refill:
    monthly = wish["interval"] == "monthly"
    if monthly and "refillDay" not in wish:
        raise invalid_input("`refillDay` must be provided when the refill interval is `monthly`.")
    return Refill(wish["amount"], wish["refillDay"] if monthly else None)


def _credits_change(body: dict[str, Any]) -> dict[str, Any]:
    """What updateKey is to do to `remaining` and `refill`; what it doesn't name it leaves. Raises Refusal 400."""
    if "credits" not in body:
        return {}
    wish = body["credits"]
    if wish is None:
        return {"remaining": None, "refill": None}
    change: dict[str, Any] = {}
    if "remaining" in wish:
        change["remaining"] = wish["remaining"]
        if wish["remaining"] is None:
            change["refill"] = None
    if "refill" in wish:
        refill = wish["refill"]
        if refill is not None and refill["interval"] == "daily" and "refillDay" in refill:
            raise invalid_input("`refillDay` must not be provided when the refill interval is `daily`.")
        change["refill"] = None if refill is None else _refill(refill)
    return change


def _ratelimits(wishes: Sequence[dict[str, Any]], before: Sequence[Ratelimit] = ()) -> tuple[Ratelimit, ...]:
    """The limits as they are kept; one that was there by that name keeps its id."""
    ids = {limit.name: limit.id for limit in before}
    by_name = {
        wish["name"]: Ratelimit(
            ids.get(wish["name"]) or new_id("rl"), wish["name"], wish["limit"], wish["duration"], wish["autoApply"]
        )
        for wish in wishes
    }
    return tuple(by_name.values())


def _no_vault() -> Refusal:
    return Refusal(412, "unkey/application/precondition_failed", "Vault hasn't been set up.")
