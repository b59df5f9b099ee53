"""How many retries an upstream's calls may make, so that they never become a storm on those that still stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.tree import RetriesSection

SAVED_SECONDS = 10
"""What is not used of the minimum is saved up for so long."""
SAVED_RETRIES = 100
"""Most retries saved up from calls that needed none."""


class RetryBudget:
    """A purse into which each call puts a part of a retry, and time another. `calls` is added to by whoever sends."""

    __slots__ = ("_calls_seen", "_max", "_min_per_second", "_part", "_purse", "_seen_at", "calls")

    def __init__(self, settings: RetriesSection, now: float) -> None:
        self.calls = 0
        self._part = settings.budget_percent / 100
        self._min_per_second = settings.budget_min_per_second
        least = self._min_per_second * SAVED_SECONDS
        self._max = least + (SAVED_RETRIES if self._part else 0)
        self._purse = least
        self._calls_seen = 0
        self._seen_at = now

    def take(self, now: float) -> bool:
        """Take one retry, if there is one."""
        purse = self._purse
        purse += (self.calls - self._calls_seen) * self._part + (now - self._seen_at) * self._min_per_second
        self._purse = min(purse, self._max)
        self._calls_seen, self._seen_at = self.calls, now
        if self._purse < 1:
            return False
        self._purse -= 1
        return True
