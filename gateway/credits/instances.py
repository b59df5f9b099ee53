"""Who is alive, and what becomes of the holds of the dead (I3).

Every process that takes holds is an instance: a row with a beat, a counter it raises every few seconds. Whoever sees
another's beat stand still for `dead_after_seconds` of its own monotonic clock declares it dead by deleting the row.
No two clocks are compared, so a clock that jumps kills nobody.

Holds whose instance has no row are orphans. A survivor ends them: settled where the upstream's answer had begun to
reach the caller (`answered`), released where it had not (failed calls are free, also after `kill -9`).

A process that was only asleep finds its row gone at its next beat, and goes on under a new number. Holds that it took
before it noticed are orphans too and end the same way; its attempts to end them raise HoldLost and nothing is served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from gateway.credits.ledger import now_ms
from gateway.credits.provider import Hold
from gateway.database.tables import HOLDS_PER_INSTANCE, holds, instances


@dataclass(frozen=True, slots=True)
class Orphan:
    """An open hold whose process is dead, and whether its upstream's answer had begun to reach the caller.

    `is_in_doubt`: nobody knows whether its credits were taken (Unkey was asked, and the answer died with the process).
    """

    hold: Hold
    answered: bool
    is_in_doubt: bool = False


def register(connection: Connection) -> int:
    """A number for this process, never used before."""
    result = connection.execute(insert(instances).values(beat=1, started_at=now_ms()))
    assert result.inserted_primary_key is not None
    return int(result.inserted_primary_key[0])


def unregister(connection: Connection, instance: int) -> None:
    """Say goodbye: what is still held under this number is for the others to end."""
    connection.execute(delete(instances).where(instances.c.id == instance))


def beat(connection: Connection, instance: int) -> bool:
    """Say that the instance is alive. False if it had been declared dead."""
    result = connection.execute(update(instances).where(instances.c.id == instance).values(beat=instances.c.beat + 1))
    return bool(result.rowcount)


def read_beats(connection: Connection) -> dict[int, int]:
    return {row.id: row.beat for row in connection.execute(select(instances.c.id, instances.c.beat))}


def bury(connection: Connection, dead: dict[int, int]) -> None:
    """Delete the rows of instances whose beat is still what it was."""
    for instance, last_beat in dead.items():
        connection.execute(delete(instances).where(instances.c.id == instance, instances.c.beat == last_beat))


def read_orphans(connection: Connection, limit: int = 10_000) -> list[Orphan]:
    """Open holds that belong to no living instance. Open holds are few: a scan is cheaper than an index on each."""
    alive = select(instances.c.id)
    query = select(holds).where((holds.c.id // HOLDS_PER_INSTANCE).not_in(alive)).limit(limit)
    return [Orphan(_hold(row), bool(row.answered)) for row in connection.execute(query)]


def _hold(row: Row[Any]) -> Hold:
    hold = Hold(row.id, row.key, "", "", row.cost, None)
    hold.route, hold.request_id, hold.taken_at = row.route, row.request_id, row.created_at
    return hold


OBSERVATIONS_MIN = 4
"""Beats of our own during which another's must have stood still."""


class Watch:
    """Notices whose beat stands still, by this process's own monotonic clock (`now`, in seconds).

    Time in which nobody could beat does not count: after a database outage, or when this process itself was asleep,
    watching starts anew. Otherwise whoever beats first after a long lock would bury all the others.
    """

    def __init__(self, now: Callable[[], float], dead_after_seconds: float) -> None:
        self._now = now
        self._dead_after_seconds = dead_after_seconds
        self._seen: dict[int, tuple[int, float, int]] = {}
        self._last = now()

    def restart(self) -> None:
        """Nobody could beat: count from here."""
        self._seen.clear()

    def dead(self, beats: dict[int, int], own: int) -> dict[int, int]:
        """Of `beats`, those that have not moved for too long. Call it after each beat of our own."""
        now = self._now()
        if now - self._last > self._dead_after_seconds / 2:
            self.restart()
        self._last = now
        seen: dict[int, tuple[int, float, int]] = {}
        for instance, count in beats.items():
            if instance != own:
                before = self._seen.get(instance)
                same = before is not None and before[0] == count
                seen[instance] = (count, before[1], before[2] + 1) if before and same else (count, now, 0)
        self._seen = seen
        return {
            instance: count
            for instance, (count, since, observations) in seen.items()
            if now - since >= self._dead_after_seconds and observations >= OBSERVATIONS_MIN
        }
