"""A target as one of its upstream's: its transport, its share of the calls, and how its calls went.

    CLOSED ──(failed too often)──→ OPEN ──(its time is over)──→ HALF_OPEN: one call tries
       ↑                             ↑                              │
       └───────(it went well)────────│──────────────────────────────┤
                                     └────────(it failed)───────────┘

Each change begins a new `epoch`: how a call went says something about the target only if it began in this epoch. So
what was in flight when a target was ejected neither ejects it again nor brings it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.tree import EjectionSection
    from gateway.upstreams.transport import TargetTransport

UNREACHABLE_SECONDS_MAX = 2.4
"""A target that can't be connected to is tried often: the call that tries loses nothing but a moment."""
JITTER = 0.25
"""Longest random addition to an ejection, in parts of it: several gateways must not all come back at once."""
RAMP_START = 0.1
"""Share at the beginning of a slow start."""


class Circuit(IntEnum):
    """The numbers are those of the metric `circuit_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """What ops may know of a target. `ejected_for_seconds` is what is left of an ejection."""

    target: str
    weight: int
    state: str
    in_flight: int
    ejected_for_seconds: float
    last_error: str


class Member:
    """Runs on one event loop. Times are `loop.time()` seconds.

    `is_down` is what the health check says. `calls` and `failures` fade: they count those of about the last window, or
    fewer where there are many (`Upstream._kept`); `row` is how many failed in a row. `share` is the weight, less in a
    slow start.
    """

    __slots__ = (
        "_ejections",
        "_forgive_at",
        "_jitter",
        "_length",
        "_returned_at",
        "_settings",
        "_unreachable",
        "calls",
        "circuit",
        "epoch",
        "failures",
        "is_down",
        "last_error",
        "row",
        "share",
        "transport",
        "until",
        "url",
        "weight",
    )

    def __init__(self, url: str, weight: int, transport: TargetTransport, settings: EjectionSection) -> None:
        self.url = url
        self.weight = weight
        self.transport = transport
        self.share = float(weight)
        self.circuit = Circuit.CLOSED
        self.epoch = 0
        self.is_down = False
        self.until = 0.0
        self.calls = 0.0
        self.failures = 0.0
        self.row = 0
        self.last_error = ""
        self._settings = settings
        self._ejections = 0
        self._length = 0.0
        self._forgive_at = 0.0
        self._returned_at = -inf
        self._unreachable = False

    @property
    def is_available(self) -> bool:
        return self.circuit is Circuit.CLOSED and not self.is_down

    @property
    def is_known_down(self) -> bool:
        """Not only are its answers bad: there are none to be had."""
        return self.is_down or (self.circuit is not Circuit.CLOSED and self._unreachable)

    def fail(self, cause: str, *, unreachable: bool) -> None:
        """A call failed."""
        self.calls += 1
        self.failures += 1
        self.row += 1
        self.last_error = cause
        if self.circuit is Circuit.CLOSED:
            self._unreachable = unreachable

    def wants_ejection(self, now: float, others: list[Member]) -> str:
        """Why it has failed too often; "" if it has not. What all targets do alike is nobody's fault."""
        settings = self._settings
        if self.row >= settings.consecutive_failures:
            return f"{self.row} failures in a row"
        calls_min = float(settings.failure_min_calls)
        if now < self._returned_at + settings.window_seconds:
            calls_min /= 4  # it was ejected a moment ago: less will do
        if self.calls < calls_min or self.failures * 100 < settings.failure_percent * self.calls:
            return ""
        calls = sum(other.calls for other in others)
        failures = sum(other.failures for other in others)
        if calls and self.failures * calls < 2 * failures * self.calls:
            return ""
        return f"{self.failures / self.calls:.0%} of its last calls failed"

    def eject(self, now: float, chance: float) -> float:
        """Open the circuit; for how many seconds. `chance` is from 0 to 1."""
        settings = self._settings
        length = settings.seconds * 2.0**self._ejections
        if length < settings.max_seconds:
            self._ejections += 1
        length = min(length, settings.max_seconds, UNREACHABLE_SECONDS_MAX if self._unreachable else inf)
        length *= 1 + JITTER * chance
        self._length = length
        self.until = now + length
        self._change(Circuit.OPEN)
        return length

    def half_open(self) -> None:
        """One call may try it."""
        self._change(Circuit.HALF_OPEN)

    def come_back(self, now: float) -> None:
        """Close the circuit; the share grows from here."""
        self._change(Circuit.CLOSED)
        self._unreachable = False
        self._returned_at = now
        self._forgive_at = now + max(self._length, self._settings.window_seconds)
        self.grow(now)

    def grow(self, now: float) -> bool:
        """Set the share that it has now. Whether it is still growing."""
        ramp = self._settings.slow_start_seconds
        age = now - self._returned_at
        if age >= ramp:
            self.share = float(self.weight)
            return False
        self.share = self.weight * max(RAMP_START, age / ramp)
        return True

    def fade(self, now: float, kept: float) -> None:
        """Let what was grow old, by the factor `kept`; forgive an ejection after a good time."""
        self.calls *= kept
        self.failures *= kept
        if self._ejections and self.circuit is Circuit.CLOSED and now >= self._forgive_at:
            self._ejections -= 1
            self._forgive_at = now + max(self._length, self._settings.window_seconds)

    def status(self, now: float) -> TargetStatus:
        words = {Circuit.CLOSED: "up", Circuit.HALF_OPEN: "probed", Circuit.OPEN: "ejected"}
        return TargetStatus(
            self.url,
            self.weight,
            "down" if self.is_down else words[self.circuit],
            self.transport.load,
            max(0.0, self.until - now) if self.circuit is Circuit.OPEN else 0.0,
            self.last_error,
        )

    def _change(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.epoch += 1
        self.calls = self.failures = 0.0
        self.row = 0
