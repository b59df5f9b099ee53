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
BUSY_COMMITS = 16
"""After so many for which the loop had no rest, the server does not set the rate."""
REST_COMMITS = 8
"""One for which it had a rest counts against so many."""


class Pace:
    """The commits of late: how fast they were, and what they waited for."""

    __slots__ = ("_began_at", "_busy_commits", "_full_at", "_is_failing", "_seconds")

    def __init__(self) -> None:
        self._full_at = FULL_AT
        self._began_at = 0.0
        self._seconds = 0.0
        self._busy_commits = 0
        self._is_failing = False

    def full_at(self, *, of_newest: bool = False) -> int:
        """How many changes may wait, to keep the journal at its best.

        While the newest go first, half as many, unless the rate would suffer: that is where a server sets it. There
        are ever more of them, and whoever is served has to wait for all whom he came with. (By 24 together a call took
        2.9 x as long as otherwise, by 12 1.7 x and by 8 1.3 x. As many were served by 12 as by 24, by 6 a fifth less.)
        """
        has_too_many = of_newest and (not self._seconds or self._busy_commits >= BUSY_COMMITS)
        return self._full_at // 2 if has_too_many else self._full_at

    def begin(self, now: float) -> None:
        """A commit begins."""
        self._began_at = now

    def end(self, waited_seconds: float, was_busy: bool, *, failed: bool) -> None:
        """It has waited for a server for so long, or less: for the loop too, if that `was_busy`.

        Taken for the server's, the loop's own time let in more, which took it longer, until a call took 14 x as long
        under overload as otherwise."""
        self._began_at = 0.0
        self._is_failing = failed
        busy = self._busy_commits + (1 if was_busy else -REST_COMMITS)
        self._busy_commits = min(max(0, busy), BUSY_COMMITS + REST_COMMITS)
        if not was_busy or waited_seconds < self._seconds:
            self._seconds += (waited_seconds - self._seconds) * SMOOTHING
        if self._seconds:
            self._full_at = min(FULL_AT_MOST, max(FULL_AT_SERVER, int(FULL_AT_SERVER * self._seconds / QUICK_SECONDS)))

    def is_stalled(self, now: float) -> bool:
        """Whether changes wait because the database takes nothing."""
        return self._is_failing or (self._began_at > 0 and now - self._began_at > STALL_SECONDS)
