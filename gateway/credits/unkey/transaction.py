"""One transaction of the journal with Unkey as the provider: pools drawn from, holds written, holds ended.

The pool of a key (`keys.balance`) holds credits that Unkey has already debited and no call has spent. What no hold has
drawn of it is the key's allotment. Credits enter the pool when a granted hold ends or is confirmed, leave it when they
are spent, and are never sent back: an increment at Unkey is not idempotent and disturbs its live counter.

A hold counts for its key's spend caps from when its row names the key: one whose call shows the key for the first time
was asked for before anybody could know of a cap.

- I1: a hold draws only what the pool has, read with the key locked; the rest is Unkey's to give.
- I3: ending a hold deletes its row, as with the local provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.credits.batch import End, Take, Transaction, capped_of, claims_of, first_of_each, mark_lost
from gateway.credits.cap_counts import CapCounts
from gateway.credits.store import (
    BALANCE,
    ENABLED,
    HASH,
    HELD,
    KEY_ID,
    LAST_ENTRY,
    REVOKED_AT,
    USER_ID,
    Changes,
    Found,
    HoldTable,
    Key,
    Wanted,
)
from gateway.credits.unkey.holds import State, UnkeyHold, UnkeyTake
from gateway.database.failure import DatabaseFailure, Kind
from gateway.errors import GatewayError, InvalidKey, KeyDisabled

HOLDS = HoldTable(
    "unkey_holds",
    ("id", "key", "key_hash", "cost", "drawn", "asked", "route", "request_id", "answered", "created_at"),
    ("id", "drawn", "asked", "key"),
    ("id", "answered", "drawn", "asked", "key"),
)


class UnkeyTransaction(Transaction):
    """Commits UnkeyTakes and the ends of UnkeyHolds."""

    async def _write(self, takes: Sequence[Take], ends: Sequence[End]) -> None:
        now, changes = self._now_ms(), Changes()
        notes = [end for end in ends if end.kept is None]
        final = first_of_each(ends) if len(ends) > 1 else {end.hold.id: end for end in ends if end.kept is not None}
        # What ends in this batch is not noted any more: it is read as it was before, and its end knows it all.
        overtaken = [note for note in notes if note.hold.id in final]
        notes = [note for note in notes if note.hold.id not in final]
        # A process that was only asleep may have found out whose hold it is after recovery had looked.
        strays = {end.hold.id: end.hold for end in ends if end.is_orphan}
        wanted = Wanted({end.hold.key for end in ends})
        wanted.numbers.update(take.number for take in takes)  # type: ignore[attr-defined]
        wanted.numbers.discard(0)
        wanted.looked_at, wanted.ended = list({end.hold.id for end in notes}), list(final)
        wanted.strays = list(strays)
        wanted.lookups = [take.claim.lookup for take in takes if take.claim is not None]
        found = await self._store.read(wanted)
        capped = capped_of(found.keys, takes, ends)
        if capped:
            changes.caps = CapCounts(await self._store.read_caps(capped), now)
        for hold_id, key in found.keys_of_strays.items():
            strays[hold_id].key = key
        if notes:
            self._note(notes, found, changes)
        if final:
            if len(found.ended) < len(final):
                mark_lost(final, found.ended)
            self._close(found, final, changes, now)
        for note in overtaken:
            end = final[note.hold.id]
            if end.is_orphan or end.lost is not None:
                mark_lost({note.hold.id: note}, ())
        changes.claims = claims_of(wanted, found, ends, now)
        if takes:
            self._take(takes, found.keys, changes, now)
        self._store.write(changes)

    # Taking

    def _take(self, takes: Sequence[Take], keys: dict[int, Key], changes: Changes, now: int) -> None:
        changed, values, claims, caps = changes.keys, changes.holds, changes.claims, changes.caps
        hold_id = self._next_hold_id
        for take in takes:
            assert isinstance(take, UnkeyTake)
            key = keys.get(take.number)
            if take.number:
                refusal = _refusal(key, take.key_hash)
                if refusal is not None:
                    take.outcome = refusal
                    continue
            claim = take.claim if claims is not None else None
            is_repeat = claim is not None and claims is not None and claims.precede(claim)
            cost = 0 if is_repeat else take.cost
            capped = None if caps is None else caps.refusal(take.number, cost)
            if capped is not None:
                take.outcome = capped
                continue
            take.outcome = hold = _draw(take, cost, key)
            if not cost:
                continue
            hold.id = hold_id
            if claim is not None and claims is not None:
                claims.take(claim, hold_id)
            hold_id += 1
            if hold.drawn:
                assert key is not None
                key[HELD] += hold.drawn
                changed[take.number] = key
            values += (hold.id, take.number, take.key_hash, take.cost, hold.drawn, hold.asked)
            hold.taken_at = now if caps is None else caps.take(take.number, cost, now)
            values += (take.route, take.request_id, 0, now)
        self._next_hold_id = hold_id

    # Ending

    @staticmethod
    def _note(notes: list[End], found: Found, changes: Changes) -> None:
        """Write down what is known of holds that stay open: Unkey's yes, and that the answer has begun."""
        holds = {end.hold.id: end.hold for end in notes}
        open_ids = {row[0] for row in found.looked_at}
        for end in notes:  # there may be two of a hold, and who waits for either must be told
            if end.hold.id not in open_ids:
                mark_lost({end.hold.id: end}, ())
        for hold_id, drawn, asked, number in found.looked_at:
            hold = holds[hold_id]
            assert isinstance(hold, UnkeyHold)
            fresh = hold.debited if asked else 0
            if fresh:
                key = changes.keys[hold.key] = found.keys[hold.key]
                key[BALANCE] += fresh
                key[HELD] += fresh
            if changes.caps is not None and not number:
                changes.caps.change(hold.key, hold.cost, hold.taken_at)
            changes.notes.append((hold.key, drawn + fresh, int(hold.is_answered), hold_id))

    def _close(self, found: Found, ends: dict[int, End], changes: Changes, now: int) -> None:
        keys, changed, entries, doubts = found.keys, changes.keys, changes.entries, changes.doubts
        for hold_id, answered, drawn, asked, number in found.ended:
            end = ends[hold_id]
            hold = end.hold
            assert isinstance(hold, UnkeyHold)
            if end.is_orphan:
                hold.state = State.DOUBTFUL if asked else State.GRANTED
                if answered:  # perhaps only after recovery had looked: its process was asleep, not dead
                    end.kept = hold.cost
            key = keys.get(hold.key)
            if key is None and number:
                # It got its key between the look and the lock. The next try finds it.
                raise DatabaseFailure(Kind.busy, f"hold {hold_id} has just been found to be of key {number}")
            if key is not None:
                key[HELD] -= drawn
                changed[hold.key] = key
            if changes.caps is not None:
                kept = min(end.kept or 0, hold.cost)  # none of what was refused or is in doubt
                changes.caps.change(hold.key, kept - (hold.cost if number else 0), hold.taken_at)
            if hold.state is State.DOUBTFUL and asked:
                cause = hold.cause or end.reason
                doubts += (hold.key, hold.key_hash, asked, hold.route, hold.request_id, cause, now)
            elif hold.state is State.GRANTED:
                assert key is not None
                entries += self._spend(end, hold, key, drawn, hold.debited if asked else 0, next(found.entry_ids))
                entries.append(now)

    @staticmethod
    def _spend(end: End, hold: UnkeyHold, key: Key, drawn: int, debited: int, entry_id: int) -> list[Any]:
        """Move the pool and write the entry: what was kept, or 0 and the reason it was given back."""
        kept = min(end.kept or 0, hold.cost)
        # Of an unlimited key Unkey debits nothing, so nothing but what was drawn can leave the pool.
        key[BALANCE] += debited - min(kept, drawn + debited)
        previous, key[LAST_ENTRY] = key[LAST_ENTRY], entry_id
        return [
            *(entry_id, hold.key, previous, -kept, hold.balance_after(kept), hold.route, hold.request_id),
            end.reason,
        ]


def _refusal(key: Key | None, key_hash: bytes) -> GatewayError | None:
    """What our own books refuse at once, whatever Unkey's caches still say."""
    if key is None or key[REVOKED_AT] is not None or key[HASH] != key_hash:
        return InvalidKey()
    if not key[ENABLED]:
        return KeyDisabled()
    return None


def _draw(take: UnkeyTake, cost: int, key: Key | None) -> UnkeyHold:
    """The hold, with as much from the key's allotment as there is."""
    key_id, user_id = (key[KEY_ID], key[USER_ID]) if key is not None else ("", "")
    hold = UnkeyHold(0, take.number, key_id, user_id, cost, take.key_hash)
    hold.route = take.route
    hold.request_id = take.request_id
    if key is not None:
        allotment = key[BALANCE] - key[HELD]
        hold.drawn = drawn = min(allotment, cost)
        hold.asked = cost - drawn
        hold.pool = allotment - drawn
        hold.others = key[HELD]
    return hold
