"""Sliding-window rate limits: the window before this one counts by the share of it that still lies in sight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gateway.sandbox.clock import Clock


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """A limit as one call meets it. `whose` is a key or the workspace; `id` is "" for one that the call itself made."""

    whose: str
    name: str
    limit: int
    duration_ms: int
    cost: int
    id: str = ""
    auto_apply: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """`remaining` tokens, `reset_ms` the unix time at which the window ends."""

    exceeded: bool
    remaining: int
    reset_ms: int


class Limiter:
    """Counts by owner, name and duration."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: dict[tuple[str, str, int], tuple[int, int, int]] = {}

    def take(self, limits: Sequence[Limit]) -> list[Outcome]:
        """Spend the tokens of all these limits, or, if one is exceeded, of none."""
        now_ms = self._clock.now_ms()
        used = [self._used(limit, now_ms) for limit in limits]
        fits = [taken + limit.cost <= limit.limit for taken, limit in zip(used, limits, strict=True)]
        outcomes = []
        for limit, taken, fit in zip(limits, used, fits, strict=True):
            spent = limit.cost if all(fits) else 0
            if spent:
                self._add(limit, now_ms, spent)
            window_ends_ms = (now_ms // max(1, limit.duration_ms) + 1) * max(1, limit.duration_ms)
            outcomes.append(Outcome(not fit, max(0, limit.limit - taken - spent), window_ends_ms))
        return outcomes

    def _used(self, limit: Limit, now_ms: int) -> int:
        """Tokens used as the sliding window sees them, rounded up."""
        number, current, before = self._window(limit, now_ms)
        duration_ms = max(1, limit.duration_ms)
        unseen_ms = now_ms - number * duration_ms
        return current - (-before * (duration_ms - unseen_ms) // duration_ms)

    def _add(self, limit: Limit, now_ms: int, spent: int) -> None:
        number, current, before = self._window(limit, now_ms)
        self._windows[limit.whose, limit.name, limit.duration_ms] = (number, current + spent, before)

    def _window(self, limit: Limit, now_ms: int) -> tuple[int, int, int]:
        """The number of the window that is running, its tokens used, and those of the one before."""
        number = now_ms // max(1, limit.duration_ms)
        last, current, before = self._windows.get((limit.whose, limit.name, limit.duration_ms), (number, 0, 0))
        if last == number:
            return number, current, before
        return number, 0, current if last == number - 1 else 0
