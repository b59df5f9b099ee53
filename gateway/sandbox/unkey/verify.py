"""keys.verifyKey, in Unkey's order: the key, disabled, expired; may the root key; permissions; rate limits; credits.

The first that fails decides, and what comes later is not touched: no credit is spent by a call that fails before.
Tokens of rate limits are spent by a call that then lacks credits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gateway.sandbox.unkey.answers import Refusal
from gateway.sandbox.unkey.database import Database
from gateway.sandbox.unkey.keys import Key, Ratelimit, digest_of
from gateway.sandbox.unkey.permissions import RootKey, allows, lacks
from gateway.sandbox.unkey.ratelimits import Limit, Outcome

DEFAULT_COST = 1


@dataclasses.dataclass(frozen=True, slots=True)
class CachedKey:
    """A row as it was when it was read, with the stored credits of that moment."""

    key: Key
    remaining: int | None
    read_at_ms: int


class KeyCache:
    """One region's cache of rows. Changes of a row don't reach it: it reads anew when what it has is too old."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows: dict[bytes, CachedKey] = {}

    def find(self, digest: bytes, *, whatever_age: bool) -> CachedKey | None:
        """The row, from the cache where that is fresh enough; `whatever_age` takes any that is there."""
        cached = self._rows.get(digest)
        if cached is None:
            return self._read(digest)
        age_ms = self._database.clock.now_ms() - cached.read_at_ms
        settings = self._database.settings
        if whatever_age or age_ms < settings.key_cache_seconds * 1000:
            return cached
        if age_ms < settings.key_cache_stale_seconds * 1000:
            self._read(digest)
            return cached
        return self._read(digest)

    def _read(self, digest: bytes) -> CachedKey | None:
        database = self._database
        key = database.keys.by_digest(digest)
        if key is None:
            self._rows.pop(digest, None)
            return None
        cached = CachedKey(key, database.balances.stored(key.key_id), database.clock.now_ms())
        self._rows[digest] = cached
        return cached


@dataclasses.dataclass(slots=True)
class Verdict:
    """What is found out about one call, step by step."""

    code: str
    remaining: int | None
    limits: Sequence[Limit] = ()
    outcomes: Sequence[Outcome] = ()


class Verifier:
    """Answers verifyKey; its regions take turns."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._caches: dict[int, KeyCache] = {}
        self._turn = 0

    def verify(self, body: dict[str, Any], root_key: RootKey, request_id: str, *, stale: bool) -> dict[str, Any]:
        """The `data` of the answer. `stale` answers from a cached row whatever its age. Raises Refusal."""
        settings = self._database.settings
        if settings.forbids_unscoped_root_keys and not root_key.may_somewhere("verify_key"):
            raise lacks("verify_key", "<API_ID>")
        region = self._turn % settings.regions
        self._turn += 1
        cache = self._caches.setdefault(region, KeyCache(self._database))
        cached = cache.find(digest_of(body["key"]), whatever_age=stale)
        if cached is None or not root_key.may("verify_key", cached.key.api_id):
            return {"valid": False, "code": "NOT_FOUND"}
        verdict = self._judge(body, cached, request_id, region)
        return self._document(cached.key, verdict)

    def _judge(self, body: dict[str, Any], cached: CachedKey, request_id: str, region: int) -> Verdict:
        database, key = self._database, cached.key
        verdict = Verdict("VALID", cached.remaining)
        # A query that can't be read is refused whatever the key is like.
        permitted = "permissions" not in body or allows(body["permissions"], key.permissions)
        if not key.enabled:
            verdict.code = "DISABLED"
        elif key.expires_ms is not None and database.clock.now_ms() >= key.expires_ms:
            verdict.code = "EXPIRED"
        elif not permitted:
            verdict.code = "INSUFFICIENT_PERMISSIONS"
        else:
            self._limit(body, key, verdict)
        if verdict.code == "VALID" and cached.remaining is not None:
            cost = body["credits"]["cost"] if "credits" in body else DEFAULT_COST
            enough, verdict.remaining = database.balances.spend(request_id, key.key_id, cost, region)
            if not enough:
                verdict.code = "USAGE_EXCEEDED"
        database.last_used_ms[key.key_id] = database.clock.now_ms()
        return verdict

    def _limit(self, body: dict[str, Any], key: Key, verdict: Verdict) -> None:
        asked = body.get("ratelimits", ())
        if not (asked or key.ratelimits):
            return
        verdict.limits = _limits(asked, key)
        verdict.outcomes = self._database.limiter.take(verdict.limits)
        if any(outcome.exceeded for outcome in verdict.outcomes):
            verdict.code = "RATE_LIMITED"

    def _document(self, key: Key, verdict: Verdict) -> dict[str, Any]:
        data: dict[str, Any] = {
            "valid": verdict.code == "VALID",
            "code": verdict.code,
            "keyId": key.key_id,
            "enabled": key.enabled,
            "permissions": key.permissions,
            "roles": key.roles,
        }
        if key.name is not None:
            data["name"] = key.name
        if key.meta is not None:
            data["meta"] = key.meta
        if key.expires_ms is not None:
            data["expires"] = key.expires_ms
        if verdict.remaining is not None:
            data["credits"] = verdict.remaining
        if key.external_id is not None:
            data["identity"] = self._database.identity_document(key)
        if verdict.outcomes:
            data["ratelimits"] = [_told(*pair) for pair in zip(verdict.limits, verdict.outcomes, strict=True)]
        return data


def _limits(asked: Sequence[dict[str, Any]], key: Key) -> list[Limit]:
    """The limits this call has to meet: those that apply by themselves, and those it names. Raises Refusal 412."""
    kept = {limit.name: limit for limit in key.ratelimits}
    limits = {name: _kept_limit(key, limit, DEFAULT_COST) for name, limit in kept.items() if limit.auto_apply}
    for wish in asked:
        name, cost = wish["name"], wish.get("cost", DEFAULT_COST)
        if "limit" in wish and "duration" in wish:
            limits[name] = Limit(key.key_id, name, wish["limit"], wish["duration"], cost)
        elif name in kept:
            limits[name] = _kept_limit(key, kept[name], cost)
        else:
            raise Refusal(
                412,
                "unkey/application/precondition_failed",
                f"ratelimit '{name}' was requested but does not exist for key '{key.key_id}'.",
            )
    return list(limits.values())


def _kept_limit(key: Key, limit: Ratelimit, cost: int) -> Limit:
    return Limit(key.key_id, limit.name, limit.limit, limit.duration_ms, cost, limit.id, limit.auto_apply)


def _told(limit: Limit, outcome: Outcome) -> dict[str, Any]:
    """As verifyKey tells it. `reset` is a point in time, though Unkey's description calls it a duration."""
    return {
        "id": limit.id,
        "name": limit.name,
        "limit": limit.limit,
        "duration": limit.duration_ms,
        "remaining": outcome.remaining,
        "reset": outcome.reset_ms,
        "exceeded": outcome.exceeded,
        "autoApply": limit.auto_apply,
    }
