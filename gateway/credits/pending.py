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
    def since(self) -> float:
        """As `oldest`, of all that is in it."""
        return min(oldest(self.takes), oldest(self.ends))

    @property
    def is_read_only(self) -> bool:
        return is_read_only(self.takes, self.ends)

    def cut(self, size_max: int) -> Batch:
        """Keep so many of each kind; the rest as a batch."""
        rest = Batch()
        if len(self.takes) > size_max or len(self.ends) > size_max:
            rest.takes, self.takes = self.takes[size_max:], self.takes[:size_max]
            rest.ends, self.ends = self.ends[size_max:], self.ends[:size_max]
        return rest

    def put_first(self, batch: Batch) -> None:
        """In front of what is here, for it came before."""
        self.takes[:0] = batch.takes
        self.ends[:0] = batch.ends

    def apart(self) -> list[Batch]:
        """A batch for each of its items, any of which may be at fault."""
        return [*(suspect(takes=[take]) for take in self.takes), *(suspect(ends=[end]) for end in self.ends)]


def suspect(takes: Sequence[Take] = (), ends: Sequence[End] = ()) -> Batch:
    """A batch of what may be at fault, which is tried alone."""
    batch = Batch()
    batch.takes += takes
    batch.ends += ends
    batch.is_suspect = True
    return batch


def oldest(items: Sequence[Take | End]) -> float:
    """Since when the first waits to whom somebody still listens; they are in the order in which they came."""
    for item in items:
        if item.future is not None and not item.future.done():
            return item.since
    return NEVER
