"""What waits for the journal's next transaction."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.credits.batch import End, Take, is_read_only
from gateway.deadlines import NEVER


class Batch:
    """What the next transaction does, in the order in which it was asked for."""

    __slots__ = ("ends", "is_suspect", "is_unsure", "takes")

    def __init__(self) -> None:
        self.takes: list[Take] = []
        self.ends: list[End] = []
        self.is_suspect = False
        self.is_unsure = False

    @property
    def size(self) -> int:
        return len(self.takes) + len(self.ends)

    @property
    def is_read_only(self) -> bool:
        return is_read_only(self.takes, self.ends)

    def apart(self) -> list[Batch]:
        """A batch for each of its items, any of which may be at fault."""
        alone = [Batch() for _ in range(self.size)]
        for batch in alone:
            batch.is_suspect = True
        for batch, take in zip(alone, self.takes, strict=False):
            batch.takes.append(take)
        for batch, end in zip(alone[len(self.takes) :], self.ends, strict=True):
            batch.ends.append(end)
        return alone


def oldest(items: Sequence[Take | End]) -> float:
    """Since when the first waits to whom somebody still listens; they are in the order in which they came."""
    for item in items:
        if item.future is not None and not item.future.done():
            return item.since
    return NEVER
