"""One transaction of the journal: many holds begun, many ended, committed together. SQLite.

The invariants live here:
- I1: a hold is taken only where balance - held >= cost, read inside `BEGIN IMMEDIATE` (and a CHECK says so again).
- I2: balance and held move by exactly the entries and holds written in the same transaction.
- I3: ending a hold is `DELETE … RETURNING`: only a row that was there is settled or released, so whoever comes
  second (recovery, a retry after a failed commit) finds nothing and changes nothing.

Every statement handles the whole batch in one step: each step of the driver gives the GIL away and takes it back,
and a step per row costs more than the row.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

from gateway.credits.provider import Hold, HoldLost
from gateway.errors import GatewayError, InvalidKey, KeyDisabled, KeyExpired, OutOfCredits

Row = list[Any]
ID, KEY_ID, USER_ID, BALANCE, HELD, ENABLED, EXPIRES_AT, REVOKED_AT, LAST_ENTRY, HASH = range(10)
KEY_COLUMNS = "id, key_id, user_id, balance, held, enabled, expires_at, revoked_at, last_entry, key_hash"


class Take:
    """A hold that is asked for. `outcome` is the hold, or why there is none."""

    __slots__ = ("cost", "future", "key_hash", "outcome", "request_id", "route")

    def __init__(self, future: asyncio.Future[Hold], key_hash: bytes, cost: int, route: str, request_id: str) -> None:
        self.future = future
        self.key_hash = key_hash
        self.cost = cost
        self.route = route
        self.request_id = request_id
        self.outcome: Hold | GatewayError | None = None


class End:
    """A hold that is to end, keeping `kept` credits; None: it only becomes `answered` and stays open."""

    __slots__ = ("future", "hold_id", "kept", "lost", "orphan", "reason")

    def __init__(
        self,
        future: asyncio.Future[None] | None,
        hold_id: int,
        kept: int | None,
        reason: str | None,
        *,
        orphan: bool = False,
    ) -> None:
        self.future = future
        self.hold_id = hold_id
        self.kept = kept
        self.reason = reason
        self.orphan = orphan
        self.lost: GatewayError | None = None


class Transaction:
    """Commits batches on one connection, numbering the holds of one instance."""

    def __init__(self, connection: sqlite3.Connection, first_hold_id: int, *, checkout: str | None = None) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._next_hold_id = first_hold_id
        self._checkout = checkout

    def commit(self, takes: Sequence[Take], ends: Sequence[End]) -> None:
        """Do it all, or raise sqlite3.Error and nothing is done."""
        read_only = not ends and not any(take.cost for take in takes)
        self._execute("BEGIN" if read_only else "BEGIN IMMEDIATE")
        try:
            self._write(takes, ends)
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise

    def renumber(self, first_hold_id: int) -> None:
        """Go on under another instance's number, from the next batch."""
        self._next_hold_id = first_hold_id

    def close(self) -> None:
        self._connection.close()

    def _write(self, takes: Sequence[Take], ends: Sequence[End]) -> None:
        now = time.time_ns() // 1_000_000
        keys: dict[int, Row] = {}
        changed: set[int] = set()
        if ends:
            self._end(ends, keys, changed, now)
        if takes:
            self._take(takes, keys, changed, now)
        if changed:
            self._connection.executemany(
                "UPDATE keys SET balance = ?, held = ?, last_entry = ? WHERE id = ?",
                [(key[BALANCE], key[HELD], key[LAST_ENTRY], key[ID]) for key in map(keys.__getitem__, changed)],
            )

    def _end(self, ends: Sequence[End], keys: dict[int, Row], changed: set[int], now: int) -> None:
        kept = {end.hold_id: end for end in ends if end.kept is None}
        final = {end.hold_id: end for end in ends if end.kept is not None}
        if kept:
            sql = f"UPDATE holds SET answered = 1 WHERE id IN ({_marks(len(kept))}) RETURNING id"
            _mark_lost(kept, {row[0] for row in self._execute(sql, list(kept))})
        if not final:
            return
        ended = self._execute(
            f"DELETE FROM holds WHERE id IN ({_marks(len(final))}) RETURNING id, key, cost, route, request_id",
            list(final),
        ).fetchall()
        if len(ended) < len(final):
            _mark_lost(final, {row[0] for row in ended})
        self._load("id", {row[1] for row in ended}, keys)
        self._append(ended, final, keys, changed, now)

    def _append(
        self, ended: Iterable[Any], ends: dict[int, End], keys: dict[int, Row], changed: set[int], now: int
    ) -> None:
        """One ledger entry per ended hold: what was kept, or 0 and the reason it was given back."""
        entry_id: int = self._execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0]
        values: list[Any] = []
        count = 0
        for hold_id, key_number, cost, route, request_id in ended:
            key = keys[key_number]
            end = ends[hold_id]
            kept = min(end.kept or 0, cost)
            key[HELD] -= cost
            if key[BALANCE] is not None:
                key[BALANCE] -= kept
            entry_id += 1
            count += 1
            values += (entry_id, key_number, key[LAST_ENTRY], -kept, key[BALANCE], route, request_id, end.reason, now)
            key[LAST_ENTRY] = entry_id
            changed.add(key_number)
        if count:
            rows = ",".join(["(?,?,?,'spend',?,?,?,?,?,?)"] * count)
            self._execute(
                "INSERT INTO entries (id, key, previous, kind, amount, balance_after, route, request_id, reason,"
                f" created_at) VALUES {rows}",
                values,
            )

    def _take(self, takes: Sequence[Take], keys: dict[int, Row], changed: set[int], now: int) -> None:
        by_hash = {key[HASH]: key for key in keys.values()}
        unseen = {take.key_hash for take in takes}.difference(by_hash)
        by_hash.update((key[HASH], key) for key in self._load("key_hash", unseen, keys))
        values: list[Any] = []
        count = 0
        hold_id = self._next_hold_id
        for take in takes:
            key = by_hash.get(take.key_hash)
            refusal = self._refusal(key, take.cost, now)
            if refusal is not None or key is None:
                take.outcome = refusal
                continue
            cost = take.cost
            if cost:
                count += 1
                values += (hold_id, key[ID], cost, take.route, take.request_id, now)
                key[HELD] += cost
                changed.add(key[ID])
            available = None if key[BALANCE] is None else key[BALANCE] - key[HELD]
            take.outcome = Hold(hold_id if cost else 0, key[KEY_ID], key[USER_ID], cost, available)
            if cost:
                hold_id += 1
        self._next_hold_id = hold_id
        if count:
            rows = ",".join(["(?,?,?,?,?,0,?)"] * count)
            self._execute(
                f"INSERT INTO holds (id, key, cost, route, request_id, answered, created_at) VALUES {rows}", values
            )

    def _refusal(self, key: Row | None, cost: int, now: int) -> GatewayError | None:
        if key is None or key[REVOKED_AT] is not None:
            return InvalidKey()
        if not key[ENABLED]:
            return KeyDisabled()
        if key[EXPIRES_AT] is not None and key[EXPIRES_AT] <= now:
            return KeyExpired()
        if key[BALANCE] is not None and key[BALANCE] - key[HELD] < cost:
            return OutOfCredits(available=key[BALANCE] - key[HELD], held=key[HELD], cost=cost, checkout=self._checkout)
        return None

    def _load(self, column: str, wanted: set[Any], keys: dict[int, Row]) -> list[Row]:
        """Read the key rows whose `column` is among `wanted` into `keys`, and return them."""
        if not wanted:
            return []
        sql = f"SELECT {KEY_COLUMNS} FROM keys WHERE {column} IN ({_marks(len(wanted))})"
        rows = [list(row) for row in self._execute(sql, list(wanted))]
        keys.update((row[ID], row) for row in rows)
        return rows


def _mark_lost(ends: dict[int, End], found: set[int]) -> None:
    for hold_id in ends.keys() - found:
        ends[hold_id].lost = HoldLost(cause=f"hold {hold_id} was ended by somebody else")


def _marks(count: int) -> str:
    return ",".join("?" * count)
