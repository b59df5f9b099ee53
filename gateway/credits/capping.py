"""Spend caps are set, changed and lifted.

One that is set in the midst of a month counts what was spent in it already: the ledger's entries of this month, by when
they were written, and the holds that are open. The ledger may be long, and calls wait for whoever writes: so it is read
page by page first, and in the transaction that sets the cap, with the key locked, only what is newer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select

from gateway.credits import ledger, spend_caps
from gateway.credits.cap_counts import CapCount
from gateway.credits.periods import day_of, month_of
from gateway.credits.provider import CapChanges
from gateway.database.engine import Database
from gateway.database.tables import entries, keys

PAGE_MAX = 1_000
"""Entries read at a time. Once no more than this are new, the cap is set."""
NEW_PAGE_MAX = 50
"""Those that are new are read in the transaction, where each one too many keeps calls waiting."""
SLACK_MS = 60_000
"""By so much the clocks of those who write a key's entries may differ, and none of this month is overlooked."""

Line = Row[int, int | None, str, int, int]
"""Of an entry: id, previous, kind, amount, created_at."""
OpenHolds = Callable[[Connection, int, int], Iterable[Sequence[int]]]
"""Cost and time of the holds of a key (by its number) that were taken since then and count for its caps."""


@dataclass(slots=True)
class Tally:
    """What the ledger says a key has spent in a day and a month. `newest` is the entry up to which it has been read."""

    day: int
    month: int
    newest: int | None = None
    day_spent: int = 0
    month_spent: int = 0

    def add(self, credits: int, at: int) -> None:
        if at >= self.month:
            self.month_spent += credits
        if at >= self.day:
            self.day_spent += credits

    def add_page(self, page: Sequence[Line]) -> int | None:
        """Count entries, newest first; the next one to read, None if these are all."""
        for number, _, kind, amount, created_at in page:
            if number == self.newest or created_at < self.month - SLACK_MS:
                return None
            if kind == "spend":
                self.add(-amount, created_at)
        previous = page[-1][1]
        return None if previous == self.newest else previous


async def change(database: Database, number: int, changes: CapChanges, open_holds: OpenHolds) -> None:
    """Set and lift caps of the key."""
    while True:
        tally = await _tally(database, number)
        if await database.transaction(
            partial(_change, number=number, changes=changes, tally=tally, open_holds=open_holds)
        ):
            return


async def _tally(database: Database, number: int) -> Tally | None:
    """What the ledger says, but for what calls add meanwhile. None for a key whose spending is counted already."""
    now = ledger.now_ms()
    tally = Tally(day_of(now), month_of(now))
    while True:
        key = await database.read(partial(_find_key, number=number))
        if key.capped:
            return None
        at, pages = key.last_entry, 0
        while at is not None:
            at = tally.add_page(await database.read(partial(_read_page, start=at, limit=PAGE_MAX)))
            pages += 1
        tally.newest = key.last_entry
        if pages <= 1:
            return tally


def _change(
    connection: Connection, number: int, changes: CapChanges, tally: Tally | None, open_holds: OpenHolds
) -> bool:
    """False: what was read does not fit any more, so look again."""
    key = ledger.lock_key(connection, keys.c.id == number)
    assert key is not None
    now = ledger.now_ms()
    if key.capped:
        (count,) = spend_caps.read_counts(connection, [number], now)
        spend_caps.update_count(connection, count, changes)
        return True
    if tally is None or (tally.day, tally.month) != (day_of(now), month_of(now)):
        return False
    spent = replace(tally)  # this may be run again
    at = None if key.last_entry == tally.newest else key.last_entry
    while at is not None:
        at = spent.add_page(_read_page(connection, at, NEW_PAGE_MAX))
    for cost, taken_at in open_holds(connection, number, spent.month):
        spent.add(cost, taken_at)
    count = CapCount(number, None, None, spent.day, spent.day_spent, spent.month, spent.month_spent)
    spend_caps.insert_count(connection, count, changes)
    return True


def _find_key(connection: Connection, number: int) -> Row[Any, Any]:
    return connection.execute(select(keys.c.capped, keys.c.last_entry).where(keys.c.id == number)).one()


_PAGE = ledger.walk_from(select(entries.c.id).where(entries.c.id == bindparam("start"))).with_only_columns(
    entries.c.id, entries.c.previous, entries.c.kind, entries.c.amount, entries.c.created_at
)


def _read_page(connection: Connection, start: int, limit: int) -> Sequence[Line]:
    """Entries of a key's chain, newest first, from that one."""
    return connection.execute(_PAGE, {"start": start, "limit": limit}).all()
