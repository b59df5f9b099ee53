"""Whether the calls of one batch meet their routes' policies, asked and counted inside its transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gateway.credits.provider import Policy, RateLimit
from gateway.credits.rate_windows import Place, RateWindows
from gateway.credits.statements import by_count, marks
from gateway.errors import Forbidden, GatewayError
from gateway.quota import Quota

Asked = tuple[int, Policy, str]
"""A key's number, what is asked of it, and by which route."""


class Admission:
    """Reads what these calls need, each in one step; `write` puts down what was counted."""

    def __init__(self, execute: Callable[..., Any], asked: Sequence[Asked], now: int) -> None:
        self._permissions = _load_permissions(execute, {key for key, policy, _ in asked if policy.query is not None})
        places = [
            _place(key, policy.rate_limit, route) for key, policy, route in asked if policy.rate_limit is not None
        ]
        self._windows = RateWindows(execute, places, now)
        self.write = self._windows.write

    def refusal(self, key: int, policy: Policy, route: str) -> GatewayError | None:
        """Why the call may not pass; None counts it as one that did."""
        if policy.query is not None and not policy.query.allows(self._permissions[key]):
            return Forbidden()
        limit = policy.rate_limit
        return None if limit is None else self._windows.take(_place(key, limit, route), limit.limit)

    def quota(self, key: int, policy: Policy, route: str) -> Quota | None:
        """What is left of the policy's rate limit, for a call that passed."""
        limit = policy.rate_limit
        return None if limit is None else self._windows.quota(_place(key, limit, route), limit.limit)


def _place(key: int, limit: RateLimit, route: str) -> Place:
    return key, limit.name or route, limit.window_seconds * 1000


def _load_permissions(execute: Callable[..., Any], keys: set[int]) -> dict[int, frozenset[str]]:
    if not keys:
        return {}
    return {key: frozenset(names.split()) for key, names in execute(_sql_permissions(len(keys)), list(keys))}


@by_count
def _sql_permissions(count: int) -> str:
    return f"SELECT id, permissions FROM keys WHERE id IN ({marks(count)})"
