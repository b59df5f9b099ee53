"""Spend caps: how many credits a key may spend in a day and in a month of the UTC calendar.

A hold counts whole from when it is taken. What is given back when it ends goes back to the day and the month in which
it was taken; once they are over there is nothing to give back to. So a count is what was spent plus what is held, of
the calls that began in that period.

The counts are rows, read and written in the transaction of the holds, with the key locked: so they are the same for
every process, and two calls can't both be the last. A hold knows when it was taken, and so does its row, for recovery:
whoever ends it knows where it counted.

Time is the wall clock's. A key's day does not go back: where a clock is behind another's at midnight, what it takes
counts in the day that has begun. So it is however far behind: were a day that lies ahead forgotten, a process with a
wrong clock and one with the right one would forget each other's, and a cap be none. A clock that was ahead once keeps
a key in its future until the cap is set anew, which counts from the ledger (capping.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gateway.credits.periods import DAY_MS, day_after, day_of, month_after, month_of
from gateway.credits.provider import SpendCap, SpendCaps
from gateway.errors import SpendCapReached

COLUMNS = ("key", "day_cap", "month_cap", "day", "day_spent", "month", "month_spent")
"""What is read of a key's row; of what is written, see CapCounts.rows."""


class CapCount:
    """One key's caps, and what it has spent of them. `moment` is when what it takes now counts."""

    __slots__ = ("day", "day_cap", "day_spent", "key", "moment", "month", "month_cap", "month_spent")

    def __init__(
        self,
        key: int,
        day_cap: int | None,
        month_cap: int | None,
        day: int = 0,
        day_spent: int = 0,
        month: int = 0,
        month_spent: int = 0,
    ) -> None:
        self.key = key
        self.day_cap = day_cap
        self.month_cap = month_cap
        self.day = day
        self.day_spent = day_spent
        self.month = month
        self.month_spent = month_spent
        self.moment = 0

    def move_to(self, now: int) -> None:
        """Begin the day and the month that have begun."""
        self.moment = max(now, self.day)
        day, month = day_of(self.moment), month_of(self.moment)
        if day != self.day:
            self.day, self.day_spent = day, 0
        if month != self.month:
            self.month, self.month_spent = month, 0

    def is_ahead(self, now: int) -> bool:
        """Whether a clock that was wrong has begun a day that is not near."""
        return self.day - now > DAY_MS

    def refusal(self, cost: int) -> SpendCapReached | None:
        """Why so much is too much. Of two caps the one that lasts longer is named: to wait for the other is no use."""
        if self.month_cap is not None and self.month_spent + cost > self.month_cap:
            resets_at = month_after(self.month)
            return SpendCapReached("month", self.month_cap, spent=self.month_spent, cost=cost, resets_at=resets_at)
        if self.day_cap is not None and self.day_spent + cost > self.day_cap:
            resets_at = day_after(self.day)
            return SpendCapReached("day", self.day_cap, spent=self.day_spent, cost=cost, resets_at=resets_at)
        return None

    def add(self, cost: int) -> None:
        self.day_spent += cost
        self.month_spent += cost

    def change(self, credits: int, taken_at: int) -> None:
        """Below 0 it would go only where it was counted anew while holds were open."""
        if day_of(taken_at) == self.day:
            self.day_spent = max(0, self.day_spent + credits)
        if month_of(taken_at) == self.month:
            self.month_spent = max(0, self.month_spent + credits)

    def shown(self) -> SpendCaps:
        day = None if self.day_cap is None else SpendCap(self.day_cap, self.day_spent, day_after(self.day))
        month = None if self.month_cap is None else SpendCap(self.month_cap, self.month_spent, month_after(self.month))
        return SpendCaps(day, month)


class CapCounts:
    """The counts that one transaction is about, by the keys' numbers."""

    def __init__(self, found: Iterable[Sequence[Any]], now: int) -> None:
        self._counts = {row[0]: CapCount(*row) for row in found}
        for count in self._counts.values():
            count.move_to(now)
        self._changed: dict[int, CapCount] = {}

    def refusal(self, number: int, cost: int) -> SpendCapReached | None:
        """Why the key may not spend so much now. What is free always passes."""
        count = self._counts.get(number)
        return count.refusal(cost) if count is not None and cost else None

    def take(self, number: int, cost: int, now: int) -> int:
        """Count a hold, and say as of when."""
        count = self._counts.get(number)
        if count is None:
            return now
        count.add(cost)
        self._changed[number] = count
        return count.moment

    def change(self, number: int, credits: int, taken_at: int) -> None:
        """A hold that was taken then counts for so much more, or less, in the day and month of then."""
        count = self._counts.get(number)
        if count is not None and credits:
            count.change(credits, taken_at)
            self._changed[number] = count

    def rows(self) -> list[tuple[int, int, int, int, int]]:
        """What has changed: day, day_spent, month, month_spent, key."""
        return [(c.day, c.day_spent, c.month, c.month_spent, c.key) for c in self._changed.values()]
