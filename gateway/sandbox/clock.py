"""The time as a stand-in sees it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Wall time that can be moved ahead: `advance` makes everything older without waiting."""

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._ahead_seconds = 0.0

    def now_ms(self) -> int:
        return int((self._seconds() + self._ahead_seconds) * 1000)

    def advance(self, seconds: float) -> None:
        self._ahead_seconds += seconds
