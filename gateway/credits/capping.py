"""Spend caps are set, changed and lifted.

One that is set in the midst of a month counts what was spent in it already: the ledger's entries of this month, by when
they were written, and the holds that are open. The ledger may be long, and calls wait for whoever writes: so it is read
page by page first, and in the transaction that sets the cap, with the key locked, only what is newer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from sqlalchemy import Connection, Row, bindparam, select

from gateway.credits import ledger, spend_caps
from gateway.credits.cap_counts import CapCount
from gateway.credits.periods import DAY_MS, day_of, month_of
from gateway.credits.provider import CapChanges
from gateway.database.engine import Database
from gateway.database.tables import entries, keys
from gateway.errors import CreditsUnavailable

PAGE_MAX = 1_000
"""Entries read at a time. Once no more than this are new, the cap is set."""
NEW_PAGE_MAX = 50
"""Those that are new are read in the transaction, where each one too many keeps calls waiting."""
SLACK_MS = 60_000
"""By so much the clocks of those who write a key's entries may differ, and none of this month is overlooked. Where one
is wrong by more, less than a page of what it wrote hides nothing."""
TIMEOUT_SECONDS = 30.0
"""For reading a ledger, and for those who were first: one at a time, or a user could keep a process busy with it."""

Line = Row[int, int | None, str, int, int]
"""Of an entry: id, previous, kind, amount, created_at."""
OpenHolds = Callable[[Connection, int, int], Iterable[Sequence[int]]]
"""Cost and time of the holds of a key (by its number) that were taken since then and count for its caps."""


class Capping:
    """Sets the caps of one provider's keys."""

    def __init__(self, database: Database, open_holds: OpenHolds) -> None:
        self._database = database
        self._open_holds = open_holds
        self._turn = asyncio.Lock()

    async def change(self, number: int, changes: CapChanges) -> None:
        """Set and lift caps of the key. Raises CreditsUnavailable where it takes too long."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._turn:
                while not await self._try(number, changes):
                    pass
        except TimeoutError as error:
            raise CreditsUnavailable(cause="the ledger could not be read in time for a spend cap") from error

    async def _try(self, number: int, changes: CapChanges) -> bool:
        tally = await _tally(self._database, number, changes)
        change = partial(_change, number=number, changes=changes, tally=tally, open_holds=self._open_holds)
        return await self._database.transaction(change)


class Tally:
    """What the ledger says a key has spent since a month began, by days. It was read up to the entry `newest`."""

    def __init__(self, month: int) -> None:
        self.month = month
        self.newest: int | None = None
        self.spent: Counter[int] = Counter()

    def copy(self) -> Tally:
        """For a transaction that may be run again."""
        copy = Tally(self.month)
        copy.newest, copy.spent = self.newest, self.spent.copy()
        return copy

    def add(self, credits: int, at: int) -> None:
        if at >= self.month:
            self.spent[day_of(at)] += credits

    def add_page(self, page: Sequence[Line]) -> int | None:
        """Count entries, newest first; the next one to read, None if these are all."""
        is_old = True
        for number, _, kind, amount, created_at in page:
            if number == self.newest:
                return None
            is_old = is_old and created_at < self.month - SLACK_MS
            if kind == "spend":
                self.add(-amount, created_at)
        previous = page[-1][1]
        return None if is_old or previous == self.newest else previous

    def count(self, number: int, now: int) -> CapCount:
        """What counts now: in the newest day that anybody's clock has begun, if that is near."""
        near = [day for day in self.spent if day <= day_of(now + DAY_MS)]
        day = max(day_of(now), *near) if near else day_of(now)
        month = month_of(day)
        month_spent = sum(spent for each, spent in self.spent.items() if month_of(each) == month)
        return CapCount(number, None, None, day, self.spent[day], month, month_spent)


async def _tally(database: Database, number: int, changes: CapChanges) -> Tally | None:
    """What the ledger says, but for what calls add meanwhile. None where nobody needs to know."""
    now = ledger.now_ms()
    tally = Tally(month_of(now))
    while True:
        newest, count = await database.read(partial(_find_key, number=number, now=now))
        if not _is_to_count(count, changes, now):
            return None
        at, pages = newest, 0
        while at is not None:
            at = tally.add_page(await database.read(partial(_read_page, start=at, limit=PAGE_MAX)))
            pages += 1
        tally.newest = newest
        if pages <= 1:
            return tally


def _is_to_count(count: CapCount | None, changes: CapChanges, now: int) -> bool:
    """Whether the key's spending is not counted, or not in a day that is near, and is to be."""
    if count is not None:
        return count.is_ahead(now)
    return any(cap is not None for cap in changes.values())


def _change(
    connection: Connection, number: int, changes: CapChanges, tally: Tally | None, open_holds: OpenHolds
) -> bool:
    """False: what was read does not fit any more, so look again."""
    now = ledger.now_ms()
    key = ledger.lock_key(connection, keys.c.id == number)
    assert key is not None
    found = _find_count(connection, number, key.capped, now)
    if not _is_to_count(found, changes, now):
        if found is not None:
            spend_caps.update_count(connection, found, changes)
        return True
    if tally is None or month_of(now) < tally.month:
        return False
    tally = tally.copy()
    at = None if key.last_entry == tally.newest else key.last_entry
    while at is not None:
        at = tally.add_page(_read_page(connection, at, NEW_PAGE_MAX))
    for cost, taken_at in open_holds(connection, number, tally.month):
        tally.add(cost, taken_at)
    count = tally.count(number, now)
    if found is None:
        spend_caps.insert_count(connection, count, changes)
    else:
        count.day_cap, count.month_cap = found.day_cap, found.month_cap
        spend_caps.update_count(connection, count, changes)
    return True


def _find_count(connection: Connection, number: int, is_capped: int, now: int) -> CapCount | None:
    return spend_caps.read_counts(connection, [number], now)[0] if is_capped else None


def _find_key(connection: Connection, number: int, now: int) -> tuple[int | None, CapCount | None]:
    """Its newest entry, and what is counted."""
    key = connection.execute(select(keys.c.capped, keys.c.last_entry).where(keys.c.id == number)).one()
    return key.last_entry, _find_count(connection, number, key.capped, now)


_START = select(entries.c.id).where(entries.c.id == bindparam("start"))
_LINE = entries.c.id, entries.c.previous, entries.c.kind, entries.c.amount, entries.c.created_at
_PAGE = ledger.walk_from(_START, *_LINE)


def _read_page(connection: Connection, start: int, limit: int) -> Sequence[Line]:
    """Entries of a key's chain, newest first, from that one."""
    return connection.execute(_PAGE, {"start": start, "limit": limit}).all()
