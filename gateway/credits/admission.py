"""Whether the calls of one batch meet their routes' policies, asked and counted inside its transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gateway.credits.provider import Policy, RateLimit
from gateway.credits.rate_windows import RateWindows
from gateway.credits.store import ID, PERMISSIONS, Key, Place
from gateway.errors import Forbidden, GatewayError
from gateway.quota import Quota

Asked = tuple[Key, Policy, str]
"""A key's row, what is asked of it, and by which route."""


class Admission:
    """What these calls need is read in one step: the rows that were `found` of their `places`. `write` gives what was
    counted."""

    def __init__(self, places: Sequence[Place], found: Iterable[Sequence[Any]], now: int) -> None:
        self._windows = RateWindows(places, found, now)
        self.write = self._windows.write

    def refusal(self, key: Key, policy: Policy, route: str) -> GatewayError | None:
        """Why the call may not pass; None counts it as one that did."""
        if policy.query is not None and not policy.query.allows(frozenset(key[PERMISSIONS].split())):
            return Forbidden()
        limit = policy.rate_limit
        return None if limit is None else self._windows.take(_place(key, limit, route), limit.limit)

    def quota(self, key: Key, policy: Policy, route: str) -> Quota | None:
        """What is left of the policy's rate limit, for a call that passed."""
        limit = policy.rate_limit
        return None if limit is None else self._windows.quota(_place(key, limit, route), limit.limit)


def places_of(asked: Iterable[Asked]) -> list[Place]:
    """Where these calls are counted, each place once."""
    limited = ((key, policy.rate_limit, route) for key, policy, route in asked)
    return list({_place(key, limit, route): None for key, limit, route in limited if limit is not None})


def _place(key: Key, limit: RateLimit, route: str) -> Place:
    return key[ID], limit.name or route, limit.window_seconds * 1000
