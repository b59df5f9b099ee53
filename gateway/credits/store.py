"""What one transaction of the journal reads and writes, whichever database has it.

`read` brings everything that the batch is about, with the keys' rows locked; `write` puts down everything that it
decided. So a database across a network is asked twice for a batch. store_sqlite.py and store_postgres.py are the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.credits.cap_counts import CapCounts
from gateway.credits.claims import Claims
from gateway.database.engine import Database

Key = list[Any]
"""A row of `keys`, with the columns below in this order."""
ID, KEY_ID, USER_ID, BALANCE, HELD, ENABLED, EXPIRES_AT, REVOKED_AT, LAST_ENTRY, HASH, PERMISSIONS, CAPPED = range(12)
KEY_COLUMNS = (
    "id, key_id, user_id, balance, held, enabled, expires_at, revoked_at, last_entry, key_hash, permissions, capped"
)
ENTRY_COLUMNS = ("id", "key", "previous", "amount", "balance_after", "route", "request_id", "reason", "created_at")
"""Of the entries that the journal writes; all of them are of the kind `spend`."""
DOUBT_COLUMNS = ("key", "key_hash", "amount", "route", "request_id", "cause", "created_at")
WINDOW_COLUMNS = ("key", "name", "window_ms", "start", "count", "previous")

Place = tuple[int, str, int]
"""Where a window of a rate limit is counted: the key's number, the limit's name, the length in milliseconds."""


@dataclass(frozen=True, slots=True)
class HoldTable:
    """Where a provider's holds are. `found` is what is asked of a hold that stays open, `ended` of one that ends."""

    name: str
    columns: tuple[str, ...]
    found: tuple[str, ...]
    ended: tuple[str, ...]


@dataclass(slots=True)
class Wanted:
    """What a batch is about. `numbers` and `hashes` are keys'; the rest are holds: to be marked as answered, to be
    looked at, to end; `strays` are holds whose key may be another than was thought. `lookups` are claims'."""

    numbers: set[int] = field(default_factory=set)
    hashes: set[bytes] = field(default_factory=set)
    answered: Sequence[int] = ()
    looked_at: Sequence[int] = ()
    ended: Sequence[int] = ()
    strays: Sequence[int] = ()
    lookups: Sequence[bytes] = ()
    is_plain: bool = False
    """Nothing but keys' rows is asked for, and holds of this process that nobody else should have touched."""


@dataclass(slots=True)
class Found:
    """What there was. `keys` by number; `entry_ids` for as many entries as holds ended, or stand-ins for them, which
    the store replaces when it writes."""

    keys: dict[int, Key] = field(default_factory=dict)
    answered: Sequence[Sequence[Any]] = ()
    looked_at: Sequence[Sequence[Any]] = ()
    ended: Sequence[Sequence[Any]] = ()
    keys_of_strays: Mapping[int, int] = field(default_factory=dict)
    entry_ids: Iterator[int] = field(default_factory=lambda: iter(()))
    records: Sequence[Sequence[Any]] = ()
    """Of the claims: the columns of RECORD, and whether the hold is open."""


@dataclass(slots=True)
class Changes:
    """What is to be written. Lists of values are rows behind one another, as the columns say."""

    holds: list[Any] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)
    doubts: list[Any] = field(default_factory=list)
    windows: list[Any] = field(default_factory=list)
    notes: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Of Unkey's holds: their key, what they have drawn, whether they are answered, their id."""
    keys: dict[int, Key] = field(default_factory=dict)
    claims: Claims | None = None
    caps: CapCounts | None = None
    """None: no key of the batch has a spend cap."""


class Store(Protocol):
    """One connection, for one batch at a time. Every method raises what gateway.database.failure.kind_of understands.

    SQLite's block and never suspend, so that a thread can bring them to their end without an event loop. PostgreSQL's
    block nothing and belong to a loop."""

    def begin(self, instance: int, *, is_read_only: bool) -> None:
        """`instance`: the number under which this process owns holds."""

    async def read(self, wanted: Wanted) -> Found: ...

    async def read_windows(self, places: Sequence[Place]) -> Sequence[Sequence[Any]]: ...

    async def read_caps(self, keys: Sequence[int]) -> Sequence[Sequence[Any]]:
        """The rows of these keys' spend caps, with the columns of cap_counts.COLUMNS."""

    def write(self, changes: Changes) -> None: ...

    async def commit(self) -> None:
        """Durable on return. Where it is not known whether it was, this finds out, however long that takes."""

    async def rollback(self) -> None: ...

    def wait_for_lock(self, milliseconds: int) -> None:
        """How long a transaction may wait for another process's before it fails as busy."""

    def close(self) -> None:
        """At once, also where a batch was broken off half-way."""


def open_store(
    database: Database,
    table: HoldTable,
    on_unsure: Callable[[], None],
    on_answer: Callable[[], None],
) -> Store:
    """`on_unsure` hears that nobody knows what has become of the commit under way; `on_answer`, that a server has
    answered for which it waits."""
    from gateway.database.sqlite import SqliteDatabase

    if isinstance(database, SqliteDatabase):
        from gateway.credits.store_sqlite import SqliteStore

        return SqliteStore(database, table)
    from gateway.credits.store_postgres import PostgresStore
    from gateway.database.postgres import PostgresDatabase

    assert isinstance(database, PostgresDatabase)
    return PostgresStore(database, table, on_unsure, on_answer)
