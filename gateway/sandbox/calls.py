"""What the stand-in counted: the other side's books, against which the gateway's are audited."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Calls:
    """Calls of the paths for sale: `calls` arrived, `usable` were answered with less than 5xx, `open` are running now.

    A call is usable from the moment its head is about to be written, even if its body is then cut short. `by_key`
    counts the same by the X-Gateway-Key-Id that the gateway sent.
    """

    def __init__(self, *, open: int = 0) -> None:
        self.open = open
        self._calls: Counter[str] = Counter()
        self._usable: Counter[str] = Counter()

    def begin(self, key_id: str) -> None:
        self.open += 1
        self._calls[key_id] += 1

    def usable(self, key_id: str) -> None:
        self._usable[key_id] += 1

    def end(self) -> None:
        self.open -= 1

    def document(self) -> dict[str, Any]:
        """The counts as JSON shows them."""
        by_key = {key: {"calls": self._calls[key], "usable": self._usable[key]} for key in self._calls if key}
        return {
            "calls": self._calls.total(),
            "usable": self._usable.total(),
            "open": self.open,
            "by_key": by_key,
        }
