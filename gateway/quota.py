"""A rate limit as callers are told of it (draft-ietf-httpapi-ratelimit-headers-11)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of a limit. `name` says what is counted by it: key, or address.

    `window_seconds` 0: the length is not known. `reset_seconds` is the time until the next window begins.
    """

    name: str
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int


def quota_fields(quotas: Iterable[Quota]) -> list[tuple[bytes, bytes]]:
    """The header fields RateLimit-Policy and RateLimit, with a member for each quota."""
    policies: list[str] = []
    states: list[str] = []
    for quota in quotas:
        window = f";w={quota.window_seconds}" if quota.window_seconds else ""
        policies.append(f'"{quota.name}";q={quota.limit}{window}')
        states.append(f'"{quota.name}";r={quota.remaining};t={quota.reset_seconds}')
    if not policies:
        return []
    return [
        (b"ratelimit-policy", ", ".join(policies).encode("ascii")),
        (b"ratelimit", ", ".join(states).encode("ascii")),
    ]
