"""How keys.verifyKey is asked. Nearly all of the body stays the same from call to call; it is written once."""

from __future__ import annotations

import hashlib
import json

from gateway.credits.provider import NO_POLICY, Policy
from gateway.errors import InvalidKey

PLAIN_BYTES = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_.-"
KEY_MAX_CHARACTERS = 512
POLICIES_MAX = 1024
NAME_PREFIX = "gateway:"
NAME_MAX_CHARACTERS = 128
"""What Unkey's answers promise to have room for; its requests would take 255."""


class VerifyBody:
    """Writes the bodies."""

    __slots__ = ("_rests",)

    def __init__(self) -> None:
        # By the policy's identity, which is quicker than its hash. Each is kept here, so that no other gets its number.
        self._rests: dict[tuple[int, str], tuple[Policy, bytes]] = {}

    def write(self, api_key: bytes, cost: int, policy: Policy, route: str) -> bytes:
        """Ask about `api_key`, taking `cost`. Raises InvalidKey for what can't be a key of Unkey's."""
        if len(api_key) > KEY_MAX_CHARACTERS or api_key.translate(None, PLAIN_BYTES) or not api_key:
            api_key = _escape(api_key)
        if policy is NO_POLICY:
            return b'{"key":"%b","credits":{"cost":%d}}' % (api_key, cost)
        known = self._rests.get((id(policy), route)) or self._remember(policy, route)
        return b'{"key":"%b","credits":{"cost":%d}%b' % (api_key, cost, known[1])

    def _remember(self, policy: Policy, route: str) -> tuple[Policy, bytes]:
        if len(self._rests) >= POLICIES_MAX:
            self._rests.clear()
        known = self._rests[(id(policy), route)] = policy, _write_rest(policy, route)
        return known


def limit_name(route: str) -> str:
    """What Unkey knows a limit by. It stays the same as long as the route, or the limit's own name, does."""
    name = NAME_PREFIX + route
    if len(name) <= NAME_MAX_CHARACTERS:
        return name
    return NAME_PREFIX + hashlib.sha256(route.encode("utf-8")).hexdigest()


def _write_rest(policy: Policy, route: str) -> bytes:
    """What the body has behind the cost."""
    members: dict[str, object] = {}
    if policy.permission:
        members["permissions"] = policy.permission
    if policy.rate_limit is not None:
        limit = policy.rate_limit
        duration_ms = limit.window_seconds * 1000
        members["ratelimits"] = [
            {"name": limit_name(limit.name or route), "limit": limit.limit, "duration": duration_ms, "cost": 1}
        ]
    rest = json.dumps(members, separators=(",", ":"))[1:]
    return (rest if not members else "," + rest).encode("ascii")


def _escape(api_key: bytes) -> bytes:
    """An odd key as it stands in a JSON string."""
    try:
        text = api_key.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidKey(cause="The key is not UTF-8") from None
    if not 0 < len(text) <= KEY_MAX_CHARACTERS:
        raise InvalidKey(cause="The key is empty or longer than any of Unkey's")
    return json.dumps(text)[1:-1].encode("ascii")
