"""What Unkey says of a key: the answer to keys.verifyKey, read strictly.

Every verdict is HTTP 200; `code` decides. An answer that contradicts itself is no verdict at all.
"""

from __future__ import annotations

import time
from typing import Any

from gateway.credits.unkey.nonsense import Nonsense
from gateway.credits.unkey.strict_json import parse_object, read_count, read_id, read_text
from gateway.credits.unkey.user_ids import decode_user_id
from gateway.errors import Forbidden, InvalidKey, KeyDisabled, KeyExpired
from gateway.quota import Quota

VALID = "VALID"
CODE_MAX_CHARACTERS = 64
EXTERNAL_ID_MAX_CHARACTERS = 256
"""What Unkey has room for. Of which characters is no matter: its old API let through more than its new one."""
EPOCH_MS_MIN = 10**12
"""Unkey's schema calls `reset` a duration, of 30 days at most; its server sends the time itself."""

UNLIMITED_SINCE = -1
"""What Unkey's counter tells of a key made unlimited while the cached row still has credits (usagelimiter/redis.go)."""

RateLimitState = tuple[int, int, int]
"""Limit, remaining, and when it resets in Unix milliseconds."""

REFUSALS: dict[str, type[InvalidKey | KeyDisabled | KeyExpired | Forbidden]] = {
    "NOT_FOUND": InvalidKey,
    "DISABLED": KeyDisabled,
    "EXPIRED": KeyExpired,
    "FORBIDDEN": Forbidden,
}
"""What Unkey says of a key whatever is asked of it."""
REFUSES_THE_CALL = frozenset({"USAGE_EXCEEDED", "RATE_LIMITED", "INSUFFICIENT_PERMISSIONS"})
"""What it says of a good key that may not make this call."""


class Verdict:
    """`code` is Unkey's, also one that we don't know; only VALID is valid. `key_id` is "" where Unkey names no key.

    `credits` are what the key has left, after the deduction if it is valid; None: the key is unlimited (or Unkey does
    not tell, of a key that is not valid). `user_id` is ours, "" for none. `rate_limit` is the limit that was exceeded,
    else the first that was looked at.
    """

    __slots__ = ("code", "credits", "enabled", "is_valid", "key_id", "rate_limit", "user_id")

    def __init__(
        self,
        code: str,
        key_id: str = "",
        credits: int | None = None,
        user_id: str = "",
        *,
        enabled: bool = True,
        rate_limit: RateLimitState | None = None,
    ) -> None:
        self.code = code
        self.is_valid = code == VALID
        self.key_id = key_id
        self.credits = credits
        self.user_id = user_id
        self.enabled = enabled
        self.rate_limit = rate_limit

    def __repr__(self) -> str:
        return f"Verdict({self.code!r}, {self.key_id!r}, credits={self.credits})"

    def quota(self) -> Quota:
        """What is left of the rate limit. Unkey does not tell the window's length."""
        limit, remaining, reset_ms = self.rate_limit or (0, 0, 0)
        return Quota("key", limit, 0, remaining, max(1, -(-(reset_ms - time.time_ns() // 1_000_000) // 1000)))


def read_verdict(body: bytes) -> Verdict:
    """The verdict in the body of a 200. Raises Nonsense."""
    members = parse_object(body).get("data")
    if type(members) is not dict:
        raise Nonsense("data is not an object")
    code = read_id(members, "code", CODE_MAX_CHARACTERS)
    is_valid = code == VALID
    if members.get("valid") is not is_valid:
        raise Nonsense("valid is not what code says")
    key_id = read_id(members, "keyId") if is_valid else read_text(members, "keyId")
    enabled = members.get("enabled", True)
    if type(enabled) is not bool or (is_valid and not enabled):
        raise Nonsense("enabled is no flag, or the key is valid and disabled")
    limits = members.get("ratelimits")
    rate_limit = None if limits is None else _read_rate_limit(limits)
    left = None if members.get("credits") == UNLIMITED_SINCE else read_count(members, "credits")
    user_id = read_user_id(members)
    return Verdict(code, key_id, left, user_id, enabled=enabled, rate_limit=rate_limit)


def read_user_id(members: dict[str, Any]) -> str:
    """Our user id from the identity of a key; "" where it has none. Raises Nonsense."""
    identity = members.get("identity")
    if identity is None:
        return ""
    if type(identity) is not dict:
        raise Nonsense("identity is not an object")
    external_id = identity.get("externalId")
    if external_id is None:
        return ""
    if type(external_id) is not str or len(external_id) > EXTERNAL_ID_MAX_CHARACTERS:
        raise Nonsense("externalId is not a text")
    return decode_user_id(external_id)


def _read_rate_limit(limits: Any) -> RateLimitState | None:
    if type(limits) is not list:
        raise Nonsense("ratelimits is not a list")
    chosen: dict[str, Any] | None = None
    for limit in limits:
        if type(limit) is not dict:
            raise Nonsense("a rate limit is not an object")
        if chosen is None or (limit.get("exceeded") is True and chosen.get("exceeded") is not True):
            chosen = limit
    if chosen is None:
        return None
    reset_ms = read_count(chosen, "reset") or 0
    if reset_ms < EPOCH_MS_MIN:
        reset_ms += time.time_ns() // 1_000_000
    return read_count(chosen, "limit") or 0, read_count(chosen, "remaining") or 0, reset_ms
