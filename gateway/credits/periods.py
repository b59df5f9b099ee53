"""Days and months of the UTC calendar. Times are Unix milliseconds; a period is known by when it begins."""

from __future__ import annotations

from datetime import date

DAY_MS = 86_400_000
EPOCH = date(1970, 1, 1).toordinal()


def day_of(time_ms: int) -> int:
    return time_ms - time_ms % DAY_MS


def month_of(time_ms: int) -> int:
    first = date.fromordinal(EPOCH + time_ms // DAY_MS).replace(day=1)
    return (first.toordinal() - EPOCH) * DAY_MS


def day_after(day: int) -> int:
    return day + DAY_MS


def month_after(month: int) -> int:
    return month_of(month + 31 * DAY_MS)  # no month is longer, and none so short that this is the second next
