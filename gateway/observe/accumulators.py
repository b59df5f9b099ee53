"""What the hot path adds to: plain numbers in lists, owned by one thread each, read by whoever shares them.

The Prometheus client's own counters take a lock and a label look-up, one to two microseconds each; a call needs a
dozen. These need a tenth of that, all together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING

from gateway.observe.families import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.observe.families import Bounds
    from gateway.observe.shared_counts import Key, Value

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Methods that get a label of their own; all others are "other", lest callers make up series."""


class Counter:
    """A number that only grows. One thread adds, any may read."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        self.value += amount


class Histogram:
    """How often values fell between bounds. One thread observes, any may read."""

    __slots__ = ("_bounds", "numbers")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.numbers: list[float] = [0] * (len(bounds) + 2)
        """The count of each bucket, of all beyond, and the sum."""

    def observe(self, value: float) -> None:
        self.numbers[bisect_left(self._bounds, value)] += 1
        self.numbers[-1] += value


class RouteMetrics:
    """What the calls of one route add up to. All of it is the event loop's thread alone."""

    __slots__ = (
        "_credits_charged",
        "_credits_released",
        "_duration",
        "_overhead",
        "_repeats",
        "_requests",
        "_upstream",
        "_verify",
    )

    def __init__(self, overhead: Histogram, verify: Histogram) -> None:
        self._requests: dict[str, dict[int, int]] = {method: defaultdict(int) for method in (*METHODS, "other")}
        self._duration = Histogram(SECONDS).numbers
        self._upstream = Histogram(SECONDS).numbers
        self._overhead = overhead.numbers
        self._verify = verify.numbers
        self._credits_charged = 0
        self._credits_released: dict[str, int] = defaultdict(int)
        self._repeats: dict[str, int] = defaultdict(int)

    def observe(
        self,
        method: str,
        status: int,
        total_seconds: float,
        upstream_seconds: float = 0.0,
        hold_seconds: float = 0.0,
        credits_charged: int = 0,
    ) -> None:
        """Count one finished call and the credits it cost.

        `upstream_seconds` is all the time spent with the upstream, relaying its body included, `hold_seconds` that
        spent with the credits; 0 where the call did not get so far. The rest of `total_seconds` is our own overhead.
        """
        # Histogram.observe four times over, written out: a call each would cost as much again.
        try:
            self._requests[method][status] += 1
        except KeyError:
            self._requests["other"][status] += 1
        numbers = self._duration
        numbers[bisect_left(SECONDS, total_seconds)] += 1
        numbers[-1] += total_seconds
        if upstream_seconds:
            numbers = self._upstream
            numbers[bisect_left(SECONDS, upstream_seconds)] += 1
            numbers[-1] += upstream_seconds
        if hold_seconds:
            numbers = self._verify
            numbers[bisect_left(SECONDS, hold_seconds)] += 1
            numbers[-1] += hold_seconds
        overhead_seconds = total_seconds - upstream_seconds - hold_seconds
        if overhead_seconds < 0.0:  # noqa: PLR1730 (max() costs a call). Parts overlapped; a sum must never shrink.
            overhead_seconds = 0.0
        numbers = self._overhead
        numbers[bisect_left(SECONDS, overhead_seconds)] += 1
        numbers[-1] += overhead_seconds
        self._credits_charged += credits_charged

    def observe_own(self, method: str, status: int, total_seconds: float) -> None:
        """Count one request that the gateway itself answered: no upstream, no hold, and no overhead over them."""
        self._requests[method if method in self._requests else "other"][status] += 1
        self._duration[bisect_left(SECONDS, total_seconds)] += 1
        self._duration[-1] += total_seconds

    def release(self, reason: str, credits: int) -> None:
        """Count credits given back. `reason` is one of our words, never the caller's."""
        self._credits_released[reason] += credits

    def repeat(self, result: str) -> None:
        """Count a call that came again, by what it was told: one of our words."""
        self._repeats[result] += 1

    def counts(self, route: str) -> Iterator[tuple[Key, Value]]:
        for method, statuses in self._requests.items():
            for status, number in statuses.items():
                yield ("requests", (route, method, str(status))), number
        yield ("request_duration_seconds", (route,)), self._duration
        yield ("upstream_duration_seconds", (route,)), self._upstream
        yield ("credits_charged", (route,)), self._credits_charged
        for reason, released in self._credits_released.items():
            yield ("credits_released", (route, reason)), released
        for result, number in self._repeats.items():
            yield ("repeats", (route, result)), number
