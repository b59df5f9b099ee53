"""The rows of keys as this process has left them, so that a batch may be decided before it is begun.

Then all of it is one round trip: the server looks whether these rows are still the same, and does nothing if one is
not (store_postgres.py). That pays where nobody else sells on the same keys. Where others do, most of what is known is
old, each try for nothing costs a round trip and a line in the server's log, and so it is tried ever more rarely.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gateway.credits.store import CAPPED, HASH, ID, Key, Wanted

VERSION = 12
"""Behind a key's columns: PostgreSQL's number of the transaction that wrote this row (xmin)."""
KNOWN_MAX = 20_000
"""Keys that are remembered, of some 500 bytes each."""
PAUSE_SECONDS = 0.05
"""After the first time that somebody else had changed a row, until it is tried again; and each time so many times:"""
PAUSE_GROWTH = 4.0
PAUSE_SECONDS_MAX = 60.0
TRUSTED_AFTER = 1_000
"""Batches in a row that nobody disturbed, after which the next disturbance is a first one again."""


class KnownKeys:
    """Rows of `keys` with their versions. They are given away to be changed: who does so tells what became of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[int, Key] = {}
        self._numbers: dict[bytes, int] = {}
        self._pause_seconds = PAUSE_SECONDS
        self._paused_until = 0.0
        self._right_in_a_row = 0

    def find(self, wanted: Wanted) -> dict[int, Key] | None:
        """The rows of all the keys that are wanted. None if one is not known or has more to it than its row, or it
        does not pay now."""
        if self._paused_until and self._clock() < self._paused_until:
            return None
        rows: dict[int, Key] = {}
        for key_hash in wanted.hashes:
            number = self._numbers.get(key_hash)
            row = None if number is None else self._rows.get(number)
            if row is None or row[HASH] != key_hash or row[CAPPED]:
                return None
            rows[row[ID]] = row
        for number in wanted.numbers:
            row = self._rows.get(number)
            if row is None or row[CAPPED]:
                return None
            rows[number] = row
        return rows

    def learn(self, rows: Iterable[Key]) -> None:
        """They are so now, as far as this process can know."""
        if len(self._rows) >= KNOWN_MAX:
            self.forget()
        for row in rows:
            self._rows[row[ID]] = row
            self._numbers[row[HASH]] = row[ID]

    def forget(self) -> None:
        """Nobody knows what they are now."""
        self._rows.clear()
        self._numbers.clear()

    def on_right(self) -> None:
        """A batch that was decided by what is known was written."""
        self._right_in_a_row += 1
        if self._right_in_a_row == TRUSTED_AFTER:
            self._pause_seconds = PAUSE_SECONDS

    def on_wrong(self) -> None:
        """Somebody else had changed a row of it."""
        self._right_in_a_row = 0
        self._paused_until = self._clock() + self._pause_seconds
        self._pause_seconds = min(PAUSE_SECONDS_MAX, self._pause_seconds * PAUSE_GROWTH)
