"""One transaction of the journal: many holds begun, many ended, committed together.

The invariants live here; a Store (store.py) has the SQL.
- I1: a hold is taken only where balance - held >= cost, read with the key locked (and a CHECK says so again).
- I2: balance and held move by exactly the entries and holds written in the same transaction.
- I3: ending a hold deletes its row: only a row that was there is settled or released, so whoever comes
  second (recovery, a retry after a failed commit) finds nothing and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.credits.admission import Admission, Asked, places_of
from gateway.credits.cap_counts import CapCounts
from gateway.credits.claims import Claim, Claims
from gateway.credits.ledger import now_ms
from gateway.credits.provider import NO_POLICY, Hold, HoldLost, Policy
from gateway.credits.store import (
    BALANCE,
    CAPPED,
    ENABLED,
    EXPIRES_AT,
    HASH,
    HELD,
    ID,
    KEY_ID,
    LAST_ENTRY,
    REVOKED_AT,
    USER_ID,
    Changes,
    Found,
    HoldTable,
    Key,
    Store,
    Wanted,
)
from gateway.database.tables import HOLDS_PER_INSTANCE
from gateway.errors import GatewayError, InvalidKey, KeyDisabled, KeyExpired, OutOfCredits

HOLDS = HoldTable(
    "holds", ("id", "key", "cost", "route", "request_id", "answered", "created_at"), ("id",), ("id", "answered")
)


class Take:
    """A hold that is asked for. `outcome` is the hold, or why there is none."""

    __slots__ = ("claim", "cost", "future", "key_hash", "outcome", "policy", "request_id", "route", "since")

    def __init__(
        self,
        future: asyncio.Future[Hold],
        key_hash: bytes,
        cost: int,
        route: str,
        request_id: str,
        since: float,
        policy: Policy = NO_POLICY,
        claim: Claim | None = None,
    ) -> None:
        self.future = future
        self.since = since
        self.key_hash = key_hash
        self.cost = cost
        self.route = route
        self.request_id = request_id
        self.policy = policy
        self.claim = claim
        self.outcome: Hold | GatewayError | None = None


class End:
    """A hold that is to end, keeping `kept` credits; None: it only becomes `answered` and stays open. `claim`: the
    call's, if that is done now."""

    __slots__ = ("attempts", "claim", "future", "hold", "is_orphan", "kept", "lost", "reason", "since")

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
        claim: Claim | None = None,
    ) -> None:
        self.future = future
        self.since = since
        self.attempts = 0
        self.hold = hold
        self.kept = kept
        self.reason = reason
        self.is_orphan = is_orphan
        self.claim = claim
        self.lost: GatewayError | None = None


def is_read_only(takes: Sequence[Take], ends: Sequence[End]) -> bool:
    """Whether there is nothing to write: free calls that nobody counts."""
    return not ends and not any(take.cost or take.policy.rate_limit for take in takes)


def is_plain(takes: Sequence[Take], ends: Sequence[End]) -> bool:
    """Whether it is about keys' balances alone, and no hold in it may be somebody else's."""
    return all(take.policy is NO_POLICY and take.claim is None for take in takes) and not any(
        end.is_orphan or end.claim is not None for end in ends
    )


class Transaction:
    """Commits batches into one store, one at a time. It suspends where the store does.

    `first_hold_id` says where an instance's numbers begin. It is asked before each commit, and where the answer has
    changed (the process had been taken for dead), numbering begins anew there. `now_ms` is the wall clock.
    """

    def __init__(
        self,
        store: Store,
        first_hold_id: Callable[[], int],
        *,
        checkout: str | None = None,
        now_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._store = store
        self._ask_first_hold_id = first_hold_id
        self._first_hold_id = self._next_hold_id = -1
        self._checkout = checkout
        self._now_ms = now_ms
        self.wait_for_lock = store.wait_for_lock
        self.close = store.close

    async def commit(self, takes: Sequence[Take], ends: Sequence[End]) -> None:
        """Do it all, or raise and nothing is done: gateway.database.failure says what such an error means.

        Cancelled, it closes the store: nobody is left to whom it could say what became of the batch.
        """
        first_hold_id = self._ask_first_hold_id()
        if first_hold_id != self._first_hold_id:
            self._first_hold_id = self._next_hold_id = first_hold_id
        store = self._store
        store.begin(first_hold_id // HOLDS_PER_INSTANCE, is_read_only=is_read_only(takes, ends))
        try:
            await self._write(takes, ends)
            await store.commit()
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, it is raised again
            broken_off = error
        except BaseException:
            store.close()
            raise
        try:
            await store.rollback()
        except BaseException:
            store.close()
            raise
        raise broken_off

    async def _write(self, takes: Sequence[Take], ends: Sequence[End]) -> None:
        now = self._now_ms()
        changes = Changes()
        kept = {end.hold.id: end for end in ends if end.kept is None}
        final = {end.hold.id: end for end in ends if end.kept is not None} if kept else {e.hold.id: e for e in ends}
        if len(kept) + len(final) < len(ends):
            final = first_of_each(ends)
        wanted = Wanted({end.hold.key for end in ends}, {take.key_hash for take in takes})
        wanted.answered, wanted.ended = list(kept), list(final)
        wanted.lookups = [take.claim.lookup for take in takes if take.claim is not None]
        wanted.is_plain = is_plain(takes, ends)
        found = await self._store.read(wanted)
        capped = capped_of(found.keys, takes, ends)
        if capped:
            changes.caps = CapCounts(await self._store.read_caps(capped), now)
        if kept:
            mark_lost(kept, found.answered)
        if final:
            if len(found.ended) < len(final):
                mark_lost(final, found.ended)
            self._append(found, final, changes, now)
        changes.claims = claims_of(wanted, found, ends, now)
        if takes:
            by_hash = {key[HASH]: key for key in found.keys.values()}
            admission = None
            asked = asked_of(takes, by_hash)
            if asked:
                places = places_of(asked)
                admission = Admission(places, await self._store.read_windows(places) if places else (), now)
            self._admit(takes, by_hash, admission, changes, now)
        self._store.write(changes)

    @staticmethod
    def _append(found: Found, ends: dict[int, End], changes: Changes, now: int) -> None:
        """One ledger entry per ended hold: what was kept, or 0 and the reason it was given back."""
        keys, changed, values, caps = found.keys, changes.keys, changes.entries, changes.caps
        for hold_id, answered in found.ended:
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
            if caps is not None:
                caps.change(number, kept - hold.cost, hold.taken_at)
            entry_id = next(found.entry_ids)
            values += (
                *(entry_id, number, key[LAST_ENTRY], -kept, key[BALANCE], hold.route, hold.request_id),
                *(end.reason, now),
            )
            key[LAST_ENTRY] = entry_id
            changed[number] = key

    def _admit(
        self,
        takes: Sequence[Take],
        by_hash: dict[bytes, Key],
        admission: Admission | None,
        changes: Changes,
        now: int,
    ) -> None:
        changed, values, claims, caps = changes.keys, changes.holds, changes.claims, changes.caps
        hold_id = self._next_hold_id
        for take in takes:
            key = by_hash.get(take.key_hash)
            refusal = self._refusal(take, key, admission, claims, caps, now)
            if key is None or refusal is not None:
                take.outcome = refusal
                continue
            claim = take.claim
            cost = take.cost if claim is None or claim.precedent is None else 0
            available = None if key[BALANCE] is None else key[BALANCE] - key[HELD] - cost
            number = key[ID]
            take.outcome = hold = Hold(hold_id if cost else 0, number, key[KEY_ID], key[USER_ID], cost, available)
            if admission is not None:
                hold.quota = admission.quota(key, take.policy, take.route)
            if not cost:
                continue
            hold.taken_at = now if caps is None else caps.take(number, cost, now)
            values += (hold_id, number, cost, take.route, take.request_id, 0, now)
            key[HELD] += cost
            changed[number] = key
            hold.route = take.route
            hold.request_id = take.request_id
            if claim is not None and claims is not None:
                claims.take(claim, hold_id)
            hold_id += 1
        self._next_hold_id = hold_id
        if admission is not None:
            admission.write(changes.windows)

    def _refusal(
        self,
        take: Take,
        key: Key | None,
        admission: Admission | None,
        claims: Claims | None,
        caps: CapCounts | None,
        now: int,
    ) -> GatewayError | None:
        if key is None or key[REVOKED_AT] is not None:
            return InvalidKey()
        if not key[ENABLED]:
            return KeyDisabled()
        if key[EXPIRES_AT] is not None and key[EXPIRES_AT] <= now:
            return KeyExpired()
        if admission is not None:
            refusal = admission.refusal(key, take.policy, take.route)
            if refusal is not None:
                return refusal
        if claims is not None and take.claim is not None and claims.precede(take.claim):
            return None  # what was done before is not paid again, so it asks for no credits
        cost = take.cost
        if caps is not None:
            capped = caps.refusal(key[ID], cost)
            if capped is not None:
                return capped
        if key[BALANCE] is not None and key[BALANCE] - key[HELD] < cost:
            return OutOfCredits(available=key[BALANCE] - key[HELD], held=key[HELD], cost=cost, checkout=self._checkout)
        return None


def capped_of(keys: dict[int, Key], takes: Sequence[Take], ends: Sequence[End]) -> list[int]:
    """Of these keys those with spend caps that the batch counts for. Where none has any, that costs nothing more."""
    capped = [number for number, key in keys.items() if key[CAPPED]]
    return [] if capped and is_read_only(takes, ends) else capped


def asked_of(takes: Sequence[Take], by_hash: dict[bytes, Key]) -> list[Asked]:
    """What is asked by routes with a policy. Where none has one, that costs nothing more."""
    return [
        (by_hash[take.key_hash], take.policy, take.route)
        for take in takes
        if take.policy is not NO_POLICY and take.key_hash in by_hash
    ]


def claims_of(wanted: Wanted, found: Found, ends: Sequence[End], now: int) -> Claims | None:
    """None where nobody in the batch claims anything, which then costs nothing."""
    claimed = [end for end in ends if end.claim is not None]
    if not (claimed or wanted.lookups):
        return None
    claims = Claims(found.records, now)
    claims.finish(claimed)
    return claims


def first_of_each(ends: Sequence[End]) -> dict[int, End]:
    """The final ends by hold, where a call and recovery end the same one at once: the first counts, the other lost."""
    final: dict[int, End] = {}
    for end in ends:
        if end.kept is not None and final.setdefault(end.hold.id, end) is not end:
            end.lost = HoldLost(cause=f"hold {end.hold.id} was ended by somebody else")
    return final


def mark_lost(ends: dict[int, End], found: Iterable[Sequence[Any]]) -> None:
    for hold_id in ends.keys() - {row[0] for row in found}:
        ends[hold_id].lost = HoldLost(cause=f"hold {hold_id} was ended by somebody else")
