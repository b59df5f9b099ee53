"""Rate limits: how often a key may call a route, in windows that slide.

A window begins at a multiple of its length in Unix time. What counts is the calls in it, and of those in the window
before it the share that still lies within one length of now, rounded down: as if they had been spread evenly. Unkey
counts in the same way. Only calls that were let through count.

The counts are rows, read and written in the transaction of the holds: so they are the same for every process, and two
calls can't both be the last. Time is the wall clock's. Where it was set back, a window that lies ahead goes on counting
if it is the next one, so that small corrections give nothing away; one farther ahead is forgotten, so that no key is
locked out for longer than two windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, delete, or_, select

from gateway.credits.store import Place
from gateway.database.engine import Database
from gateway.database.tables import rate_windows as table
from gateway.errors import RateLimited
from gateway.quota import Quota

PRUNE_MAX = 1_000
"""Rows deleted in one transaction, for holds wait as long as it lasts."""


class Window:
    """One window's counts. Times are Unix milliseconds."""

    __slots__ = ("count", "length_ms", "previous", "start")

    def __init__(self, length_ms: int, start: int = 0, count: int = 0, previous: int = 0) -> None:
        self.length_ms = length_ms
        self.start = start
        self.count = count
        self.previous = previous

    def move_to(self, now: int) -> None:
        """Begin a new window if this one is over."""
        length = self.length_ms
        start = now - now % length
        if start == self.start + length:
            self.previous, self.count, self.start = self.count, 0, start
        elif start not in (self.start, self.start - length):
            self.previous, self.count, self.start = 0, 0, start

    def used(self, now: int) -> int:
        """How many calls count now."""
        unseen = max(0, now - self.start)
        return self.count + self.previous * (self.length_ms - unseen) // self.length_ms

    def seconds_left(self, now: int) -> int:
        """Until the next window has begun, rounded up."""
        return (self.start + self.length_ms - now) // 1000 + 1


class RateWindows:
    """The windows that one transaction is about."""

    def __init__(self, places: Iterable[Place], found: Iterable[Sequence[Any]], now: int) -> None:
        self._now = now
        self._windows = {place: Window(place[2]) for place in places}
        self._changed: dict[Place, Window] = {}
        for key, name, length_ms, *counts in found:
            self._windows[key, name, length_ms] = Window(length_ms, *counts)

    def take(self, place: Place, limit: int) -> RateLimited | None:
        """Count a call, or say why it is one too many."""
        window, now = self._windows[place], self._now
        window.move_to(now)
        if window.used(now) >= limit:
            return RateLimited(self.quota(place, limit))
        window.count += 1
        self._changed[place] = window
        return None

    def quota(self, place: Place, limit: int) -> Quota:
        """What is left of the limit now."""
        window, now = self._windows[place], self._now
        return Quota("key", limit, place[2] // 1000, max(0, limit - window.used(now)), window.seconds_left(now))

    def write(self, values: list[Any]) -> None:
        """Put down what was counted, in one order for all: of two who write the same rows none is to wait for the other
        who waits for him."""
        for place in sorted(self._changed):
            window = self._changed[place]
            values += (*place, window.start, window.count, window.previous)


async def prune(database: Database, now_ms: Callable[[], int]) -> None:
    """Delete rows that count for nothing any more. Raises CreditsUnavailable.

    They are looked for in a read, which holds up nobody, and deleted by their primary key: no index on time, which
    every call would pay for.
    """
    while stale := await database.read(partial(find_stale, now=now_ms())):
        await database.transaction(partial(delete_stale, stale=stale))


def find_stale(connection: Connection, now: int, most: int = PRUNE_MAX) -> Sequence[RowMapping]:
    """Rows whose calls count for nothing now: they ended a whole length ago, or lie ahead of a clock set back."""
    age = now - table.c.start
    nothing = or_(age >= 2 * table.c.window_ms, age <= -2 * table.c.window_ms)
    place = table.c.key, table.c.name, table.c.window_ms
    query = select(*place, table.c.start).where(nothing).order_by(*place).limit(most)
    return connection.execute(query).mappings().all()


def delete_stale(connection: Connection, stale: Sequence[RowMapping]) -> None:
    """Delete them, but for those that have begun to count again."""
    unchanged = and_(*(table.c[name] == bindparam(f"found_{name}") for name in stale[0]))
    found = [{f"found_{name}": value for name, value in row.items()} for row in stale]
    connection.execute(delete(table).where(unchanged), found)
