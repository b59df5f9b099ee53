"""Numbers that several worker processes share through files, so that any of them can answer for all.

    directory/0.json  0.lock        the first worker's numbers; who holds the lock on 0.lock owns them
    directory/1.json  1.lock        …

Law 1. A worker takes the first place whose lock is free and counts on from what stands there. Counts therefore
       never go back, neither when a worker is killed nor when another follows it, and there are never more files
       than there were workers at once.
Law 2. A file is only ever replaced whole (rename), so a reader never sees half of one, and a writer that is killed
       leaves its last whole one.
Law 3. The kernel drops a lock when its owner dies. Gauges count only while their place is locked: those of the
       dead vanish at once.

The supervisor makes the directory, empty, best in memory (/dev/shm): nothing here needs to survive a reboot.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

Key = tuple[str, tuple[str, ...]]
"""A family's name and the values of its labels."""

Value = float | list[float]
"""A number, or a histogram: the count of each bucket, of all beyond, and the sum of what was observed."""

Gauge = tuple[str, tuple[str, ...], float]
"""A family's name, the values of its labels, and how much it is now."""

_FORMAT = 1


@dataclass(slots=True)
class Numbers:
    """What one worker knows, or all together."""

    counts: dict[Key, Value] = field(default_factory=dict)
    gauges: dict[Key, float] = field(default_factory=dict)


class SharedCounts:
    """One worker's place in the directory. Construction takes it; OSError if the directory can't be used."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for place in count():
            lock = _lock(directory / f"{place}.lock")
            if lock is not None:
                self._lock, self._place = lock, place
                break
        inherited = _read(directory / f"{place}.json")
        self.inherited: dict[Key, Value] = inherited.counts if inherited is not None else {}
        """What those who had the place before have counted."""

    def write(self, numbers: Numbers) -> None:
        """Replace what stands at our place. Raises OSError and leaves the former numbers if it can't."""
        document = {
            "format": _FORMAT,
            "counts": [(*key, value) for key, value in numbers.counts.items()],
            "gauges": [(*key, value) for key, value in numbers.gauges.items()],
        }
        fresh = self._directory / f"{self._place}.new"
        fresh.write_text(json.dumps(document, separators=(",", ":")))
        fresh.replace(self._directory / f"{self._place}.json")

    def read_all(self) -> list[Numbers]:
        """The numbers of every worker, ours too; the dead without gauges. Any thread may ask."""
        everyone: list[Numbers] = []
        for place in count():
            path = self._directory / f"{place}.lock"
            if not path.exists():
                return everyone
            numbers = _read(self._directory / f"{place}.json")
            if numbers is None:
                continue
            if _is_free(path):
                numbers.gauges.clear()
            everyone.append(numbers)
        raise AssertionError

    @property
    def is_first(self) -> bool:
        """Whether no worker at a place before ours lives. Of the living, one is, whoever dies."""
        return all(_is_free(self._directory / f"{place}.lock") for place in range(self._place))

    @property
    def begun_at(self) -> float:
        """When the first worker of all took its place. Nobody ever writes to its lock."""
        return (self._directory / "0.lock").stat().st_mtime

    def close(self) -> None:
        """Leave the place to a successor. The counts stay."""
        os.close(self._lock)


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock, or None if a live process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_free(path: Path) -> bool:
    # A shared lock, so that two readers don't take each other for the owner. A worker that starts in this very
    # moment finds the place taken and goes to the next one, which does no harm.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _read(path: Path) -> Numbers | None:
    """What stands in the file; None if there is none yet, or one of another version of the gateway."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if document["format"] != _FORMAT:
        return None
    return Numbers(
        counts={(family, tuple(labels)): value for family, labels, value in document["counts"]},
        gauges={(family, tuple(labels)): value for family, labels, value in document["gauges"]},
    )
