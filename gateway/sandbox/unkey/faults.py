"""Switches that make the stand-in slow, wrong or silent, for some calls and so many times.

| kind | the call then |
|---|---|
| slow | is answered `seconds` later; with `takes_effect` it is carried out at once |
| error | is answered with `status` (500) |
| limited | is answered 429 with Retry-After: `retry_after_seconds`, as by the workspace's limit |
| malformed | is answered in a way that `how` names (malformed.py); takes effect unless `takes_effect` is false |
| reset | ends with a reset of its connection (RST) |
| closed | ends with its connection closed before any byte of an answer |
| silent | gets no answer until the caller gives up |
| stale | of verifyKey: is answered from a row read earlier, whatever changed since and however long ago |

`takes_effect` says whether the call is carried out before it fails: credits are then spent, granted, keys made.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from gateway.sandbox.fields import Field, flag, number, object_of, one_of, whole
from gateway.sandbox.unkey.bodies import BODIES
from gateway.sandbox.unkey.malformed import WAYS

KINDS = ("slow", "error", "limited", "malformed", "reset", "closed", "silent", "stale")
EVERY_CALL = "*"
CALLS = {name.partition(".")[2]: name for name in BODIES}
"""`verifyKey` for `keys.verifyKey`: faults may name calls either way."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One switch."""

    kind: str
    call: str = EVERY_CALL
    how: str = "not_json"
    seconds: float = 1.0
    status: int = 500
    retry_after_seconds: int = 1
    size_bytes: int = 16 << 20
    """Of a `huge` answer."""
    takes_effect: bool | None = None
    """None is what is usual for the kind: malformed and stale do, the others don't."""
    times: int | None = None
    """So many calls; None is all."""
    probability: float = 1.0
    """Of each call, drawn from the seed."""

    @property
    def carried_out(self) -> bool:
        return self.kind in ("malformed", "stale") if self.takes_effect is None else self.takes_effect


@dataclasses.dataclass(slots=True)
class _Armed:
    fault: Fault
    left: int | None
    """Calls that it will still strike; None is all."""


class Faults:
    """The switches that are set. Of several that fit a call the one set first strikes."""

    def __init__(self, seed: int = 0) -> None:
        self._dice = random.Random(seed)
        self._faults: list[_Armed] = []

    def add(self, fault: Fault) -> None:
        read_fault(dataclasses.asdict(fault))
        self._faults.append(_Armed(fault, fault.times))

    def set(self, **switches: Any) -> None:
        """Set one by the names of its switches. Raises InvalidField."""
        self.add(read_fault(switches))

    def clear(self) -> None:
        self._faults.clear()

    def seed(self, seed: int) -> None:
        """Begin the draws anew: the same seed and calls are struck by the same faults."""
        self._dice = random.Random(seed)

    def strike(self, call: str) -> Fault | None:
        """The fault that this call meets."""
        for armed in self._faults:
            fault = armed.fault
            if CALLS.get(fault.call, fault.call) not in (EVERY_CALL, call) or armed.left == 0:
                continue
            if fault.probability < 1 and self._dice.random() >= fault.probability:
                continue
            if armed.left is not None:
                armed.left -= 1
            return fault
        return None

    def __bool__(self) -> bool:
        return bool(self._faults)

    def document(self) -> list[dict[str, Any]]:
        """What is set, with how often each will still strike."""
        return [{**dataclasses.asdict(armed.fault), "times": armed.left} for armed in self._faults]


def read_fault(document: dict[str, Any]) -> Fault:
    """A fault from JSON. Raises InvalidField."""
    FAULT(document, "fault")
    return Fault(**document)


def _flag_or_none(value: Any, location: str) -> None:
    if value is not None:
        flag()(value, location)


FAULT: Field = object_of(
    {
        "kind": one_of(*KINDS),
        "call": one_of(EVERY_CALL, "liveness", *CALLS, *CALLS.values()),
        "how": one_of(*WAYS),
        "seconds": number(0, 3600),
        "status": whole(400, 599),
        "retry_after_seconds": whole(0, 3600),
        "size_bytes": whole(0, 1 << 30),
        "takes_effect": _flag_or_none,
        "times": whole(0, nullable=True),
        "probability": number(0, 1),
    },
    ("kind",),
)
