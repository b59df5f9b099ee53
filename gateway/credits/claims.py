"""A call that is done once, though it may come again: what its caller claims when its hold is taken.

    (none) ──hold──▶ running ──settled, or its answer has begun──▶ done ──keep_ms──▶ (none)
                       └──its hold has ended otherwise──▶ (none)

A record (a row of `answers`) is written in the transaction of its call's hold and becomes done in the transaction that
settles it. Until then it is as alive as that hold is open, and a hold ends exactly once (I3), also that of a process
which was killed. So no lease is needed, no two clocks are compared, and nobody has to tidy up: a record that is not
done and whose hold is gone is nobody's, and the next call takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.credits.batch import End

RECORD = ("lookup", "fingerprint", "done", "size", "expires_at")
"""What is read of a record; behind it, whether its hold is open."""
CLAIMED = ("lookup", "fingerprint", "hold", "expires_at")
"""What is written of a new one."""


@dataclass(frozen=True, slots=True)
class Precedent:
    """The call that has this claim already. `has_answer`: it was kept, and can be asked for. (It is not read with the
    record: answers are large, and repeats are free, so the holds of others must not wait for them.)"""

    fingerprint: bytes
    is_done: bool
    has_answer: bool


class Claim:
    """`lookup` names the record (nobody but the caller can make it up), `fingerprint` says what is asked.

    `precedent` is set by the hold: then nothing was taken, and the hold is one of no credits. `answer`, sealed, is set
    before the hold is settled, if it is to be kept. `is_void`: the call failed after all, so nothing is to be left.
    """

    __slots__ = ("answer", "fingerprint", "is_void", "keep_ms", "lookup", "precedent")

    def __init__(self, lookup: bytes, fingerprint: bytes, keep_ms: int) -> None:
        self.lookup = lookup
        self.fingerprint = fingerprint
        self.keep_ms = keep_ms
        self.precedent: Precedent | None = None
        self.answer: bytes | None = None
        self.is_void = False


class Claims:
    """The claims of one transaction: who has a record already, who gets one, which are done now.

    `found` are the records of the batch's claims, as RECORD says; none counts whose time is over, unless it runs.
    """

    def __init__(self, found: Iterable[Sequence[Any]], now: int) -> None:
        self._now = now
        self._precedents = {
            lookup: Precedent(fingerprint, bool(done), size > 0)
            for lookup, fingerprint, done, size, expires_at, is_running in found
            if is_running or (done and expires_at > now)
        }
        self.records: list[Any] = []
        """To be written anew, with the columns of CLAIMED behind one another."""
        self.done: list[tuple[bytes | None, int, int, bytes, int]] = []
        """To be done: answer, size, expires_at, lookup, hold."""
        self.void: list[tuple[bytes, int]] = []
        """To be forgotten, if they are still that hold's."""

    def finish(self, ends: Iterable[End]) -> None:
        """What these ends settle is done. Before anything is taken: a repeat may be in the same batch."""
        for end in ends:
            claim = end.claim
            if claim is None or end.lost is not None:
                continue
            answer, lookup = claim.answer, claim.lookup
            if claim.is_void:
                self.void.append((lookup, end.hold.id))
                self._precedents.pop(lookup, None)
                continue
            self.done.append((answer, len(answer or b""), self._now + claim.keep_ms, lookup, end.hold.id))
            # As it was read the hold was gone and nothing done yet: it looked like nobody's.
            self._precedents[lookup] = Precedent(claim.fingerprint, True, bool(answer))

    def precede(self, claim: Claim) -> bool:
        """Whether somebody has it already; the claim then says who. (Asked again if the transaction is tried again.)"""
        claim.precedent = self._precedents.get(claim.lookup)
        return claim.precedent is not None

    def take(self, claim: Claim, hold_id: int) -> None:
        """The claim is that hold's."""
        self.records += (claim.lookup, claim.fingerprint, hold_id, self._now + claim.keep_ms)
        self._precedents[claim.lookup] = Precedent(claim.fingerprint, False, False)
