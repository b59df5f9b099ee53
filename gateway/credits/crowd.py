"""When those who are there need not wait for the rest of the crowd."""

from __future__ import annotations

CROWD_MIN = 8
"""Changes that are enough to be committed in two halves."""


class Crowd:
    """Those who came together of late. `is_remote`: their commits wait for a server.

    If all who are under way wait for the same commit, nobody is served meanwhile, and the server has nothing to do
    while all are served. So half of them go first: one half is served while the other's commit is under way.
    """

    def __init__(self, *, is_remote: bool) -> None:
        self._is_remote = is_remote
        self._size = 0

    def on_commit(self, committed: int, waiting: int) -> None:
        """So many have come back, and so many have come meanwhile."""
        self._size = committed + waiting

    def on_failure(self) -> None:
        """They are none until a commit succeeds: there are pauses to be kept."""
        self._size = 0

    def is_half(self, waiting: int) -> bool:
        """Whether so many are half of them."""
        return self._is_remote and CROWD_MIN <= self._size <= 2 * waiting
