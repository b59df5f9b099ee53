"""Credits as Unkey keeps them: a stored value, and in front of it live counters that it lags behind.

A spend takes from the region's live counter, all or nothing, and is replayed to the stored value later, clamped at 0.
A counter is loaded from the stored value when there is none, and lives for `counter_seconds` from then on; spends don't
prolong it. A change of the stored value drops one region's counter, so spends that were not replayed yet come back.
None as a stored value is unlimited.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from typing import Any

from gateway.sandbox.clock import Clock
from gateway.sandbox.unkey.settings import Settings

SPENDS_MAX = 500_000
"""The newest spends that are kept one by one; the sums are kept for good."""
UNLIMITED_SINCE = -1
"""What Unkey's counter says of a key that became unlimited while the cached row still has credits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spend:
    """One deduction that a VALID verification made (0 credits too)."""

    request_id: str
    key_id: str
    cost: int
    remaining: int


class Balances:
    """Every key's credits. Amounts are whole credits."""

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self._clock = clock
        self._settings = settings
        self._stored: dict[str, int | None] = {}
        self._counters: dict[tuple[int, str], tuple[int, int]] = {}
        self._queue: deque[tuple[int, str, int]] = deque()
        self._unreplayed: Counter[str] = Counter()
        self.spends: deque[Spend] = deque(maxlen=SPENDS_MAX)
        self.spent: Counter[str] = Counter()
        self.spend_count: Counter[str] = Counter()

    def stored(self, key_id: str) -> int | None:
        """The stored value, after what is due has been replayed."""
        self._replay_due()
        return self._stored[key_id]

    def key_ids(self) -> list[str]:
        """Every key there ever was, deleted ones too."""
        return list(self._stored)

    def live(self, key_id: str, region: int = 0) -> int | None:
        """The live counter of a region; None where there is none just now."""
        value, expires_ms = self._counters.get((region, key_id), (0, 0))
        return value if self._clock.now_ms() < expires_ms else None

    def unreplayed(self, key_id: str) -> int:
        """Credits that were spent and have not reached the stored value."""
        self._replay_due()
        return self._unreplayed[key_id]

    def open(self, key_id: str, amount: int | None) -> None:
        self._stored[key_id] = amount

    def spend(self, request_id: str, key_id: str, cost: int, region: int) -> tuple[bool, int]:
        """Take the whole cost or nothing. Gives whether it was taken, and what is left."""
        now_ms = self._clock.now_ms()
        value, expires_ms = self._counters.get((region, key_id), (0, 0))
        if now_ms >= expires_ms:
            stored = self.stored(key_id)
            if stored is None:
                return True, UNLIMITED_SINCE
            value, expires_ms = stored, now_ms + int(self._settings.counter_seconds * 1000)
        enough = value >= cost
        left = value - cost if enough else value
        self._counters[region, key_id] = (left, expires_ms)
        if enough:
            self.spends.append(Spend(request_id, key_id, cost, left))
            self.spent[key_id] += cost
            self.spend_count[key_id] += 1
            if cost:
                self._replay_later(now_ms, key_id, cost)
        return enough, left

    def set(self, key_id: str, amount: int | None) -> int | None:
        """Write the stored value and drop the live counter."""
        self._replay_due()
        self._stored[key_id] = amount
        self._counters.pop((0, key_id), None)
        return amount

    def increment(self, key_id: str, amount: int) -> int | None:
        return self.set(key_id, (self.stored(key_id) or 0) + amount)

    def decrement(self, key_id: str, amount: int) -> int | None:
        return self.set(key_id, max(0, (self.stored(key_id) or 0) - amount))

    def refill(self, key_id: str, amount: int) -> None:
        """Raise the stored value to the amount, and leave the live counter as it is."""
        stored = self.stored(key_id)
        if stored is not None and stored < amount:
            self._stored[key_id] = amount

    def replay(self) -> None:
        """Bring the stored values up to date at once."""
        while self._queue:
            self._replay_one()

    def document(self, key_id: str) -> dict[str, Any]:
        """One key's books, for audits."""
        return {
            "stored": self.stored(key_id),
            "live": [self.live(key_id, region) for region in range(self._settings.regions)],
            "unreplayed": self.unreplayed(key_id),
            "spent": self.spent[key_id],
            "spends": self.spend_count[key_id],
        }

    def _replay_later(self, now_ms: int, key_id: str, cost: int) -> None:
        lag_ms = int(self._settings.replay_lag_seconds * 1000)
        self._queue.append((now_ms + lag_ms, key_id, cost))
        self._unreplayed[key_id] += cost

    def _replay_due(self) -> None:
        now_ms = self._clock.now_ms()
        while self._queue and self._queue[0][0] <= now_ms:
            self._replay_one()

    def _replay_one(self) -> None:
        _, key_id, cost = self._queue.popleft()
        self._unreplayed[key_id] -= cost
        stored = self._stored[key_id]
        if stored is not None:
            self._stored[key_id] = max(0, stored - cost)
