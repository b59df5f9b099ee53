"""How fast commits are, and so how many changes may wait for theirs."""

from __future__ import annotations

FULL_AT = 32
"""Changes that may wait, where commits keep the processor busy: a batch that is committed and one that gathers. With
twice as many a call takes twice as long, and no more are done."""
FULL_AT_SERVER = 24
"""The same where a commit waits for a server. If all that is under way waits for the same commit, nothing is done
meanwhile: with 32 calls in flight, 32 here took a sixth of the rate."""
FULL_AT_MOST = 512
QUICK_SECONDS = 0.001
"""Where the server takes longer, so much more may wait: or it would set the rate."""
STALL_SECONDS = 0.25
"""A commit that takes longer waits for somebody else's: for a lock, for a disk, for a server that is away."""
SMOOTHING = 1 / 8


class Pace:
    """`full_at`: how many changes may wait, to keep the journal at its best."""

    __slots__ = ("_began_at", "_is_failing", "_seconds", "full_at")

    def __init__(self) -> None:
        self.full_at = FULL_AT
        self._began_at = 0.0
        self._seconds = 0.0
        self._is_failing = False

    def begin(self, now: float) -> None:
        """A commit begins."""
        self._began_at = now

    def end(self, waited_seconds: float, was_busy: bool, *, failed: bool) -> None:
        """It has waited for a server for so long, or less: for the loop too, if that `was_busy`.

        Taken for the server's, the loop's own time let in more, which took it longer, until a call took 14 x as long
        under overload as otherwise."""
        self._began_at = 0.0
        self._is_failing = failed
        if not was_busy or waited_seconds < self._seconds:
            self._seconds += (waited_seconds - self._seconds) * SMOOTHING
        if self._seconds:
            self.full_at = min(FULL_AT_MOST, max(FULL_AT_SERVER, int(FULL_AT_SERVER * self._seconds / QUICK_SECONDS)))

    def is_stalled(self, now: float) -> bool:
        """Whether changes wait because the database takes nothing."""
        return self._is_failing or (self._began_at > 0 and now - self._began_at > STALL_SECONDS)
