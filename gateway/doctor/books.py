"""What is open in the books, in either database: an import that is not finished, holds, movements in doubt; and whether
spend caps are counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from gateway.database.moving import bookmark
from gateway.database.tables import HOLDS_PER_INSTANCE
from gateway.doctor.diagnosis import Diagnosis, fail, ok, warn

Ask = Callable[[str], list[Any]]
"""Gives the rows of a query, in words that both databases understand."""

WHAT = "database"
OLD_HOLD_SECONDS = 3600.0
"""A call that lasts for so long is likely a stream, and worth a look."""
IMPORT = f"SELECT position FROM leases WHERE name = '{bookmark.NAME}'"  # noqa: S608 - our own words, as below
HOLDS = (
    "SELECT count(*), min(created_at),"  # noqa: S608
    f" coalesce(sum(CASE WHEN id / {HOLDS_PER_INSTANCE} IN (SELECT id FROM instances) THEN 0 ELSE 1 END), 0)"
    " FROM (SELECT id, created_at FROM holds UNION ALL SELECT id, created_at FROM unkey_holds) AS h"
)
DOUBTS = (
    "SELECT (SELECT count(*) FROM doubts WHERE resolution IS NULL)"
    " + (SELECT count(*) FROM grants WHERE state = 'in_doubt')"
)

MISCOUNTED = (
    "SELECT count(*) FROM keys k LEFT JOIN spend_caps c ON c.key = k.id"
    " WHERE k.capped <> CASE WHEN c.key IS NULL THEN 0 ELSE 1 END"
)


def examine_books(ask: Ask) -> Iterator[Diagnosis]:
    """Of a database with this version's schema."""
    for (rows,) in ask(IMPORT):
        yield fail(
            f"{WHAT}: import",
            f"not finished, {rows} rows are in, and nothing is served from it: run `gateway import` with the same file"
            " again, or begin with an empty database",
        )
    yield _examine_holds(*ask(HOLDS)[0])
    yield _examine_doubts(int(ask(DOUBTS)[0][0]))
    yield from _examine_caps(int(ask(MISCOUNTED)[0][0]))


def _examine_holds(count: int, oldest_at: int | None, orphan_count: int) -> Diagnosis:
    """`oldest_at` is Unix milliseconds; `orphan_count` those of processes that are gone."""
    what = f"{WHAT}: open holds"
    if oldest_at is None:
        return ok(what, "none")
    age_seconds = max(0.0, time.time() - oldest_at / 1000)
    text = f"{count}, the oldest for {_shown_age(age_seconds)}"
    if orphan_count:
        return warn(
            what, f"{text}; {orphan_count} of processes that are gone: a running gateway, or the next, ends them"
        )
    if age_seconds > OLD_HOLD_SECONDS:
        return warn(what, f"{text}: a call that still runs, or a process that hangs")
    return ok(what, text)


def _examine_doubts(count: int) -> Diagnosis:
    what = f"{WHAT}: movements in doubt"
    if count:
        return warn(what, f"{count}: `gateway orders list` shows them, `gateway orders resolve` ends them")
    return ok(what, "none")


def _examine_caps(count: int) -> Iterator[Diagnosis]:
    if count:
        yield fail(
            f"{WHAT}: spend caps",
            f"{count} keys say wrongly whether they have any, as somebody else wrote to the database: set `keys.capped`"
            " to 1 where `spend_caps` has a row of the key, and else to 0",
        )


def _shown_age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
