"""One transaction of the journal: many holds begun, many ended, committed together. SQLite.

The invariants live here:
- I1: a hold is taken only where balance - held >= cost, read inside `BEGIN IMMEDIATE` (and a CHECK says so again).
- I2: balance and held move by exactly the entries and holds written in the same transaction.
- I3: ending a hold is `DELETE … RETURNING`: only a row that was there is settled or released, so whoever comes
  second (recovery, a retry after a failed commit) finds nothing and changes nothing.

Every statement handles the whole batch in one step, for a step through the driver costs more than a row.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.credits.admission import Admission
from gateway.credits.ledger import now_ms
from gateway.credits.provider import NO_POLICY, Hold, HoldLost, Policy
from gateway.credits.statements import by_count, marks
from gateway.database.open_files import OpenFiles
from gateway.errors import GatewayError, InvalidKey, KeyDisabled, KeyExpired, OutOfCredits

Row = list[Any]
ID, KEY_ID, USER_ID, BALANCE, HELD, ENABLED, EXPIRES_AT, REVOKED_AT, LAST_ENTRY, HASH, NEWEST = range(11)
KEY_COLUMNS = (
    "id, key_id, user_id, balance, held, enabled, expires_at, revoked_at, last_entry, key_hash,"
    " (SELECT max(id) FROM entries)"
)

NUMBERS_MAX = 100_000
"""Keys whose row number is remembered. It only says where to look: the row found there must have the right hash."""


class Take:
    """A hold that is asked for. `outcome` is the hold, or why there is none."""

    __slots__ = ("cost", "future", "key_hash", "outcome", "policy", "request_id", "route", "since")

    def __init__(
        self,
        future: asyncio.Future[Hold],
        key_hash: bytes,
        cost: int,
        route: str,
        request_id: str,
        since: float,
        policy: Policy = NO_POLICY,
    ) -> None:
        self.future = future
        self.since = since
        self.key_hash = key_hash
        self.cost = cost
        self.route = route
        self.request_id = request_id
        self.policy = policy
        self.outcome: Hold | GatewayError | None = None


class End:
    """A hold that is to end, keeping `kept` credits; None: it only becomes `answered` and stays open."""

    __slots__ = ("attempts", "future", "hold", "is_orphan", "kept", "lost", "reason", "since")

    is_answer = True
    """Whether what keeps it open is that its answer has begun to reach the caller."""

    def __init__(
        self,
        future: asyncio.Future[None] | None,
        hold: Hold,
        kept: int | None,
        reason: str | None,
        since: float,
        *,
        is_orphan: bool = False,
    ) -> None:
        self.future = future
        self.since = since
        self.attempts = 0
        self.hold = hold
        self.kept = kept
        self.reason = reason
        self.is_orphan = is_orphan
        self.lost: GatewayError | None = None


def is_read_only(takes: Sequence[Take], ends: Sequence[End]) -> bool:
    """Whether there is nothing to write: free calls that nobody counts."""
    return not ends and not any(take.cost or take.policy.rate_limit for take in takes)


class Transaction:
    """Commits batches on one connection. One thread at a time may use it.

    `first_hold_id` says where an instance's numbers begin. It is asked before each commit, and where the answer has
    changed (the process had been taken for dead), numbering begins anew there. `now_ms` is the wall clock.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        files: OpenFiles,
        first_hold_id: Callable[[], int],
        *,
        checkout: str | None = None,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._connection = connection
        self._files = files
        self._execute = connection.execute
        self._ask_first_hold_id = first_hold_id
        self._first_hold_id = self._next_hold_id = -1
        self._checkout = checkout
        self._now_ms = now_ms
        self._numbers: dict[bytes, int] = {}

    def wait_for_lock(self, milliseconds: int) -> None:
        """How long a commit may wait for another process's before it fails with SQLITE_BUSY."""
        self._execute(f"PRAGMA busy_timeout = {milliseconds}")

    def commit(self, takes: Sequence[Take], ends: Sequence[End]) -> None:
        """Do it all, or raise sqlite3.Error and nothing is done."""
        first_hold_id = self._ask_first_hold_id()
        if first_hold_id != self._first_hold_id:
            self._first_hold_id = self._next_hold_id = first_hold_id
        self._execute("BEGIN" if is_read_only(takes, ends) else "BEGIN IMMEDIATE")
        try:
            self._files.check()
            self._write(takes, ends)
            self._execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._connection.close()

    def _write(self, takes: Sequence[Take], ends: Sequence[End]) -> None:
        now = self._now_ms()
        keys = self._load_keys(takes, ends)
        changed: dict[int, Row] = {}
        if ends:
            self._end(ends, keys, changed, now)
        if takes:
            self._take(takes, keys, changed, now)
        if changed:
            self._connection.executemany(
                "UPDATE keys SET balance = ?, held = ?, last_entry = ? WHERE id = ?",
                [(key[BALANCE], key[HELD], key[LAST_ENTRY], key[ID]) for key in changed.values()],
            )

    def _load_keys(self, takes: Sequence[Take], ends: Sequence[End]) -> dict[int, Row]:
        """The key rows that the batch is about, by number."""
        numbers = self._numbers
        wanted = {end.hold.key for end in ends}
        unseen: set[bytes] = set()
        for take in takes:
            number = numbers.get(take.key_hash)
            if number is None:
                unseen.add(take.key_hash)
            else:
                wanted.add(number)
        keys = self._load("id", wanted) if wanted else {}
        if keys:
            # The row under a remembered number may have got another secret since.
            hashes = {key[HASH] for key in keys.values()}
            unseen.update(take.key_hash for take in takes if take.key_hash not in hashes)
        if unseen:
            found = self._load("key_hash", unseen)
            if len(numbers) + len(found) > NUMBERS_MAX:
                numbers.clear()
            for key in found.values():
                numbers[key[HASH]] = key[ID]
                keys.setdefault(key[ID], key)
        return keys

    def _end(self, ends: Sequence[End], keys: dict[int, Row], changed: dict[int, Row], now: int) -> None:
        kept = {end.hold.id: end for end in ends if end.kept is None}
        final = {end.hold.id: end for end in ends if end.kept is not None} if kept else {e.hold.id: e for e in ends}
        if len(kept) + len(final) < len(ends):
            final = first_of_each(ends)
        if kept:
            mark_lost(kept, self._execute(_sql_keep(len(kept)), list(kept)).fetchall())
        if final:
            ended = self._execute(_sql_end(len(final)), list(final)).fetchall()
            if len(ended) < len(final):
                mark_lost(final, ended)
            if ended:
                self._append(ended, final, keys, changed, now)

    def _append(
        self,
        ended: list[tuple[int, int]],
        ends: dict[int, End],
        keys: dict[int, Row],
        changed: dict[int, Row],
        now: int,
    ) -> None:
        """One ledger entry per ended hold: what was kept, or 0 and the reason it was given back."""
        entry_id = keys[ends[ended[0][0]].hold.key][NEWEST] or 0
        values: list[Any] = []
        for hold_id, answered in ended:
            end = ends[hold_id]
            hold = end.hold
            if answered and end.is_orphan:
                # Answered perhaps only after recovery had looked: its process was asleep, not dead.
                end.kept = hold.cost
            number = hold.key
            key = keys[number]
            kept = min(end.kept or 0, hold.cost)
            key[HELD] -= hold.cost
            if key[BALANCE] is not None:
                key[BALANCE] -= kept
            entry_id += 1
            values += (
                *(entry_id, number, key[LAST_ENTRY], -kept, key[BALANCE], hold.route, hold.request_id),
                *(end.reason, now),
            )
            key[LAST_ENTRY] = entry_id
            changed[number] = key
        self._execute(sql_append(len(ended)), values)

    def _take(self, takes: Sequence[Take], keys: dict[int, Row], changed: dict[int, Row], now: int) -> None:
        by_hash = {key[HASH]: key for key in keys.values()}
        admission = self._admission(takes, by_hash, now)
        values: list[Any] = []
        hold_id = first_id = self._next_hold_id
        for take in takes:
            key = by_hash.get(take.key_hash)
            cost = take.cost
            refusal = self._refusal(take, key, admission, now)
            if key is None or refusal is not None:
                take.outcome = refusal
                continue
            available = None if key[BALANCE] is None else key[BALANCE] - key[HELD] - cost
            number = key[ID]
            take.outcome = hold = Hold(hold_id if cost else 0, number, key[KEY_ID], key[USER_ID], cost, available)
            if admission is not None:
                hold.quota = admission.quota(number, take.policy, take.route)
            if not cost:
                continue
            values += (hold_id, number, cost, take.route, take.request_id, now)
            key[HELD] += cost
            changed[number] = key
            hold.route = take.route
            hold.request_id = take.request_id
            hold_id += 1
        if values:
            self._next_hold_id = hold_id
            self._execute(_sql_take(hold_id - first_id), values)
        if admission is not None:
            admission.write()

    def _admission(self, takes: Sequence[Take], by_hash: dict[bytes, Row], now: int) -> Admission | None:
        """What answers for the policies of these takes; None where none has one, which then costs nothing."""
        asked = [
            (by_hash[take.key_hash][ID], take.policy, take.route)
            for take in takes
            if take.policy is not NO_POLICY and take.key_hash in by_hash
        ]
        return Admission(self._execute, asked, now) if asked else None

    def _refusal(self, take: Take, key: Row | None, admission: Admission | None, now: int) -> GatewayError | None:
        if key is None or key[REVOKED_AT] is not None:
            return InvalidKey()
        if not key[ENABLED]:
            return KeyDisabled()
        if key[EXPIRES_AT] is not None and key[EXPIRES_AT] <= now:
            return KeyExpired()
        if admission is not None:
            refusal = admission.refusal(key[ID], take.policy, take.route)
            if refusal is not None:
                return refusal
        cost = take.cost
        if key[BALANCE] is not None and key[BALANCE] - key[HELD] < cost:
            return OutOfCredits(available=key[BALANCE] - key[HELD], held=key[HELD], cost=cost, checkout=self._checkout)
        return None

    def _load(self, column: str, wanted: Iterable[Any]) -> dict[int, Row]:
        values = list(wanted)
        return {row[ID]: list(row) for row in self._execute(_sql_load(column, len(values)), values)}


def first_of_each(ends: Sequence[End]) -> dict[int, End]:
    """The final ends by hold, where a call and recovery end the same one at once: the first counts, the other lost."""
    final: dict[int, End] = {}
    for end in ends:
        if end.kept is not None and final.setdefault(end.hold.id, end) is not end:
            end.lost = HoldLost(cause=f"hold {end.hold.id} was ended by somebody else")
    return final


def mark_lost(ends: dict[int, End], found: Iterable[tuple[int, ...]]) -> None:
    for hold_id in ends.keys() - {row[0] for row in found}:
        ends[hold_id].lost = HoldLost(cause=f"hold {hold_id} was ended by somebody else")


@by_count
def _sql_load(column: str, count: int) -> str:
    return f"SELECT {KEY_COLUMNS} FROM keys WHERE {column} IN ({marks(count)})"


@by_count
def _sql_keep(count: int) -> str:
    return f"UPDATE holds SET answered = 1 WHERE id IN ({marks(count)}) RETURNING id"


@by_count
def _sql_end(count: int) -> str:
    return f"DELETE FROM holds WHERE id IN ({marks(count)}) RETURNING id, answered"


@by_count
def _sql_take(count: int) -> str:
    rows = ",".join(["(?,?,?,?,?,0,?)"] * count)
    return f"INSERT INTO holds (id, key, cost, route, request_id, answered, created_at) VALUES {rows}"


@by_count
def sql_append(count: int) -> str:
    rows = ",".join(["(?,?,?,'spend',?,?,?,?,?,?)"] * count)
    return (
        "INSERT INTO entries (id, key, previous, kind, amount, balance_after, route, request_id, reason, created_at)"
        f" VALUES {rows}"
    )
