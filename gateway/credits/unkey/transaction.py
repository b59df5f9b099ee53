"""One transaction of the journal with Unkey as the provider: pools drawn from, holds written, holds ended.

The pool of a key (`keys.balance`) holds credits that Unkey has already debited and no call has spent. What no hold has
drawn of it is the key's allotment. Credits enter the pool when a granted hold ends or is confirmed, leave it when they
are spent, and are never sent back: an increment at Unkey is not idempotent and disturbs its live counter.

- I1: a hold draws only what the pool has, read inside `BEGIN IMMEDIATE`; the rest is Unkey's to give.
- I3: ending is `DELETE … RETURNING`, as with the local provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.credits.batch import (
    BALANCE,
    ENABLED,
    HASH,
    HELD,
    KEY_ID,
    LAST_ENTRY,
    NEWEST,
    REVOKED_AT,
    USER_ID,
    End,
    Row,
    Take,
    Transaction,
    first_of_each,
    mark_lost,
    sql_append,
)
from gateway.credits.provider import Hold
from gateway.credits.statements import by_count, marks
from gateway.credits.unkey.holds import State, UnkeyHold, UnkeyTake
from gateway.errors import GatewayError, InvalidKey, KeyDisabled

Ended = tuple[int, int, int, int]
"""A row of an ended hold: id, answered, drawn, asked."""


class UnkeyTransaction(Transaction):
    """Commits UnkeyTakes and the ends of UnkeyHolds."""

    def _load_keys(self, takes: Sequence[Take], ends: Sequence[End]) -> dict[int, Row]:
        self._find_keys_of([end.hold for end in ends if end.is_orphan])
        wanted = {end.hold.key for end in ends}
        wanted.update(take.number for take in takes)  # type: ignore[attr-defined]
        wanted.discard(0)
        return self._load("id", wanted) if wanted else {}

    def _find_keys_of(self, orphans: Sequence[Hold]) -> None:
        """A process that was only asleep may have found out whose hold it is after recovery had looked."""
        if orphans:
            by_id = {hold.id: hold for hold in orphans}
            for hold_id, key in self._execute(_sql_keys_of(len(by_id)), list(by_id)):
                by_id[hold_id].key = key

    # Taking

    def _take(self, takes: Sequence[Take], keys: dict[int, Row], changed: dict[int, Row], now: int) -> None:
        values: list[Any] = []
        hold_id = first_id = self._next_hold_id
        for take in takes:
            assert isinstance(take, UnkeyTake)
            key = keys.get(take.number)
            if take.number:
                refusal = _refusal(key, take.key_hash)
                if refusal is not None:
                    take.outcome = refusal
                    continue
            take.outcome = hold = _draw(take, key)
            if not take.cost:
                continue
            hold.id = hold_id
            hold_id += 1
            if hold.drawn:
                assert key is not None
                key[HELD] += hold.drawn
                changed[take.number] = key
            values += (hold.id, take.number, take.key_hash, take.cost, hold.drawn, hold.asked)
            values += (take.route, take.request_id, now)
        if values:
            self._next_hold_id = hold_id
            self._execute(_sql_take(hold_id - first_id), values)

    # Ending

    def _end(self, ends: Sequence[End], keys: dict[int, Row], changed: dict[int, Row], now: int) -> None:
        notes = [end for end in ends if end.kept is None]
        if notes:
            self._note(notes, keys, changed)
        final = first_of_each(ends) if len(ends) > 1 else {end.hold.id: end for end in ends if end.kept is not None}
        if final:
            ended = self._execute(_sql_end(len(final)), list(final)).fetchall()
            if len(ended) < len(final):
                mark_lost(final, ended)
            if ended:
                self._close(ended, final, keys, changed, now)

    def _note(self, notes: list[End], keys: dict[int, Row], changed: dict[int, Row]) -> None:
        """Write down what is known of holds that stay open: Unkey's yes, and that the answer has begun."""
        holds = {end.hold.id: end.hold for end in notes}
        found = self._execute(_sql_find(len(holds)), list(holds)).fetchall()
        open_ids = {row[0] for row in found}
        for end in notes:  # there may be two of a hold, and who waits for either must be told
            if end.hold.id not in open_ids:
                mark_lost({end.hold.id: end}, ())
        for hold_id, drawn, asked in found:
            hold = holds[hold_id]
            assert isinstance(hold, UnkeyHold)
            fresh = hold.debited if asked else 0
            if fresh:
                key = changed[hold.key] = keys[hold.key]
                key[BALANCE] += fresh
                key[HELD] += fresh
            self._execute(
                "UPDATE unkey_holds SET key = ?, drawn = ?, asked = 0, answered = ? WHERE id = ?",
                (hold.key, drawn + fresh, int(hold.is_answered), hold_id),
            )

    def _close(
        self, ended: list[Ended], ends: dict[int, End], keys: dict[int, Row], changed: dict[int, Row], now: int
    ) -> None:
        entries: list[Any] = []
        doubts: list[Any] = []
        newest = max((key[NEWEST] or 0 for key in keys.values()), default=0)
        for hold_id, answered, drawn, asked in ended:
            end = ends[hold_id]
            hold = end.hold
            assert isinstance(hold, UnkeyHold)
            if end.is_orphan:
                hold.state = State.DOUBTFUL if asked else State.GRANTED
                if answered:  # perhaps only after recovery had looked: its process was asleep, not dead
                    end.kept = hold.cost
            key = keys.get(hold.key)
            if key is not None:
                key[HELD] -= drawn
                changed[hold.key] = key
            if hold.state is State.DOUBTFUL and asked:
                cause = hold.cause or end.reason
                doubts.append((hold.key, hold.key_hash, asked, hold.route, hold.request_id, cause, now))
            elif hold.state is State.GRANTED:
                assert key is not None
                newest += 1
                entries += self._spend(end, hold, key, drawn, hold.debited if asked else 0, newest)
                entries.append(now)
        if entries:
            self._execute(sql_append(len(entries) // 9), entries)
        if doubts:
            self._connection.executemany(
                "INSERT INTO doubts (key, key_hash, amount, route, request_id, cause, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                doubts,
            )

    @staticmethod
    def _spend(end: End, hold: UnkeyHold, key: Row, drawn: int, debited: int, entry_id: int) -> list[Any]:
        """Move the pool and write the entry: what was kept, or 0 and the reason it was given back."""
        kept = min(end.kept or 0, hold.cost)
        # Of an unlimited key Unkey debits nothing, so nothing but what was drawn can leave the pool.
        key[BALANCE] += debited - min(kept, drawn + debited)
        previous, key[LAST_ENTRY] = key[LAST_ENTRY], entry_id
        return [
            *(entry_id, hold.key, previous, -kept, hold.balance_after(kept), hold.route, hold.request_id),
            end.reason,
        ]


def _refusal(key: Row | None, key_hash: bytes) -> GatewayError | None:
    """What our own books refuse at once, whatever Unkey's caches still say."""
    if key is None or key[REVOKED_AT] is not None or key[HASH] != key_hash:
        return InvalidKey()
    if not key[ENABLED]:
        return KeyDisabled()
    return None


def _draw(take: UnkeyTake, key: Row | None) -> UnkeyHold:
    """The hold, with as much from the key's allotment as there is."""
    key_id, user_id = (key[KEY_ID], key[USER_ID]) if key is not None else ("", "")
    hold = UnkeyHold(0, take.number, key_id, user_id, take.cost, take.key_hash)
    hold.route = take.route
    hold.request_id = take.request_id
    if key is not None:
        allotment = key[BALANCE] - key[HELD]
        hold.drawn = drawn = min(allotment, take.cost)
        hold.asked = take.cost - drawn
        hold.pool = allotment - drawn
        hold.others = key[HELD]
    return hold


@by_count
def _sql_take(count: int) -> str:
    rows = ",".join(["(?,?,?,?,?,?,?,?,0,?)"] * count)
    return (
        "INSERT INTO unkey_holds (id, key, key_hash, cost, drawn, asked, route, request_id, answered, created_at)"
        f" VALUES {rows}"
    )


@by_count
def _sql_find(count: int) -> str:
    return f"SELECT id, drawn, asked FROM unkey_holds WHERE id IN ({marks(count)})"


@by_count
def _sql_keys_of(count: int) -> str:
    return f"SELECT id, key FROM unkey_holds WHERE id IN ({marks(count)})"


@by_count
def _sql_end(count: int) -> str:
    return f"DELETE FROM unkey_holds WHERE id IN ({marks(count)}) RETURNING id, answered, drawn, asked"
