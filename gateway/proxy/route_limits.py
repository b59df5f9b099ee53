"""What a route allows one caller, counted in this process alone: calls at a time, and calls in a window per address.

Each worker counts for itself, so with several a caller gets up to as many times as much. What must be exact over all of
them is the route's `rate_limit`, which the credits' own transaction counts (credits/rate_windows.py).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from gateway.config.tree import RateLimitSection
from gateway.credits.rate_windows import Window
from gateway.errors import RateLimited, TooManyAtOnce
from gateway.quota import Quota

ADDRESSES_MAX = 65_536
"""Addresses whose calls are remembered. Beyond, the one that has been silent for longest is forgotten: who has more
addresses than that at hand is not stopped by counting them."""
NETWORK_BYTES = 8
"""A /64 is the least that is given to a customer: its addresses are one caller's (RFC 6177)."""


class Concurrency:
    """At most so many calls of one key at a time. `running`: those that run already, by key."""

    def __init__(self, limit: int, running: dict[bytes, int] | None = None) -> None:
        self._limit = limit
        self._running: dict[bytes, int] = {} if running is None else running

    def successor(self, limit: int) -> Concurrency:
        """Another limit for the same calls: those that run still count, and those that begin count here too."""
        return Concurrency(limit, self._running)

    def begin(self, key: bytes) -> None:
        """Count a call, which must `end`. Raises TooManyAtOnce."""
        running = self._running.get(key, 0)
        if running >= self._limit:
            raise TooManyAtOnce(limit=self._limit)
        self._running[key] = running + 1

    def end(self, key: bytes) -> None:
        running = self._running[key] - 1
        if running:
            self._running[key] = running
        else:
            del self._running[key]


class AddressLimit:
    """At most so many calls of one address in a window that slides. `windows`: what was counted already."""

    def __init__(
        self,
        section: RateLimitSection,
        windows: OrderedDict[bytes, Window] | None = None,
        *,
        now_ms: Callable[[], int] | None = None,
    ) -> None:
        self._limit = section.limit
        self._window_seconds = section.window_seconds
        self._now_ms = now_ms or _monotonic_ms
        self._windows: OrderedDict[bytes, Window] = OrderedDict() if windows is None else windows

    def successor(self, section: RateLimitSection) -> AddressLimit:
        """Another limit for the same addresses. In a window of another length nothing has been counted yet."""
        counted = self._windows if section.window_seconds == self._window_seconds else None
        return AddressLimit(section, counted, now_ms=self._now_ms)

    def take(self, address: str) -> Quota:
        """Count a call; what is left. Raises RateLimited."""
        now = self._now_ms()
        window = self._window(network_of(address))
        window.move_to(now)
        reset_seconds = window.seconds_left(now)
        used = window.used(now)
        if used >= self._limit:
            raise RateLimited(Quota("address", self._limit, self._window_seconds, 0, reset_seconds))
        window.count += 1
        return Quota("address", self._limit, self._window_seconds, self._limit - used - 1, reset_seconds)

    def _window(self, network: bytes) -> Window:
        windows = self._windows
        window = windows.get(network)
        if window is None:
            if len(windows) >= ADDRESSES_MAX:
                windows.popitem(last=False)
            window = windows[network] = Window(self._window_seconds * 1000)
        else:
            windows.move_to_end(network)
        return window


def network_of(address: str) -> bytes:
    """What counts as one caller: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return b""
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return parsed.packed[:NETWORK_BYTES] if mapped is None else mapped.packed
    return parsed.packed


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
