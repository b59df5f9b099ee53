"""Switches that make calls slow, wrong or silent, and webhooks late, doubled, shuffled or lost.

| kind, of calls | the call then |
|---|---|
| slow | is answered `seconds` later; with `takes_effect` it is carried out at once |
| error | is answered with `status` (500). Stripe remembers what an endpoint answered for its idempotency key, 500 too; `remembered` says whether it does, and unless told otherwise only a 500 is |
| limited | is answered 429 |
| malformed | is answered in a way that `how` names (malformed.py); takes effect unless `takes_effect` is false |
| reset | ends with a reset of its connection (RST) |
| closed | ends with its connection closed before any byte of an answer |
| silent | gets no answer until the caller gives up |

`takes_effect` says whether the call is carried out before it fails. What was carried out is remembered for its
idempotency key, so that the next try with it gets the answer that was lost.

| kind, of webhooks | the event then |
|---|---|
| duplicate | is sent so many `copies` more, at the same time |
| twin | happens twice: two events with ids of their own for one change |
| delay | is sent `seconds` later |
| reorder | is sent up to `seconds` later, drawn from the seed |
| hold | is kept until `release` sends all that were kept, in the order that it is asked for |
| drop | is never sent |
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from gateway.sandbox.fields import Field, flag, number, object_of, one_of, text, whole
from gateway.sandbox.stripe.malformed import WAYS

CALL_KINDS = ("slow", "error", "limited", "malformed", "reset", "closed", "silent")
WEBHOOK_KINDS = ("duplicate", "twin", "delay", "reorder", "hold", "drop")
EVERYTHING = "*"


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One switch. `of` names calls ("checkout.sessions.create", "refunds.*") or events ("charge.refunded")."""

    kind: str
    of: str = EVERYTHING
    how: str = "not_json"
    seconds: float = 1.0
    status: int = 500
    copies: int = 1
    takes_effect: bool | None = None
    """None is what is usual for the kind: malformed does, the others don't."""
    remembered: bool | None = None
    times: int | None = None
    """So many calls or events; None is all."""
    probability: float = 1.0
    """Of each, drawn from the seed."""

    @property
    def carried_out(self) -> bool:
        return self.kind == "malformed" if self.takes_effect is None else self.takes_effect

    @property
    def kept(self) -> bool:
        """Whether Stripe keeps this error as the answer for the idempotency key."""
        return self.kind == "error" and (self.status == 500 if self.remembered is None else self.remembered)


@dataclasses.dataclass(slots=True)
class _Armed:
    fault: Fault
    left: int | None


class Faults:
    """The switches that are set. `seed` begins the draws: the same seed strikes the same."""

    def __init__(self, seed: int = 0) -> None:
        self._dice = random.Random(seed)
        self._faults: list[_Armed] = []

    def set(self, **switches: Any) -> None:
        """Set one by the names of its members. Raises InvalidField."""
        FAULT(switches, "fault")
        fault = Fault(**switches)
        self._faults.append(_Armed(fault, fault.times))

    def clear(self) -> None:
        self._faults.clear()

    def seed(self, seed: int) -> None:
        self._dice = random.Random(seed)

    def strike(self, call: str) -> Fault | None:
        """The fault that this call meets: of several that fit the one set first."""
        return next(self._strikes(call, lambda kind: kind in CALL_KINDS), None)

    def document(self) -> list[dict[str, Any]]:
        """What is set, with how often each will still strike."""
        return [{**dataclasses.asdict(armed.fault), "times": armed.left} for armed in self._faults]

    def _strikes(self, name: str, fits: Callable[[str], bool]) -> Any:
        for armed in self._faults:
            fault = armed.fault
            if not fits(fault.kind) or armed.left == 0 or not fnmatchcase(name, fault.of):
                continue
            if fault.probability < 1 and self._dice.random() >= fault.probability:
                continue
            if armed.left is not None:
                armed.left -= 1
            yield fault


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How one event goes to one endpoint: a delay for each copy."""

    delays_seconds: tuple[float, ...] = (0.0,)
    held: bool = False
    dropped: bool = False


class WebhookFaults(Faults):
    """The same switches as they strike events: of several that fit, all do."""

    def twinned(self, kind: str) -> bool:
        return any(self._strikes(kind, lambda fault: fault == "twin"))

    def plan(self, kind: str) -> Plan:
        delay, copies, held, dropped = 0.0, 1, False, False
        spread = 0.0
        for fault in self._strikes(kind, lambda one: one in WEBHOOK_KINDS and one != "twin"):
            match fault.kind:
                case "duplicate":
                    copies += fault.copies
                case "delay":
                    delay += fault.seconds
                case "reorder":
                    spread = max(spread, fault.seconds)
                case "hold":
                    held = True
                case _:
                    dropped = True
        return Plan(tuple(delay + self._dice.random() * spread for _ in range(copies)), held, dropped)

    def shuffle(self, items: list[Any]) -> None:
        self._dice.shuffle(items)


def _flag_or_none(value: Any, location: str) -> None:
    if value is not None:
        flag()(value, location)


FAULT: Field = object_of(
    {
        "kind": one_of(*CALL_KINDS, *WEBHOOK_KINDS),
        "of": text(1, 100),
        "how": one_of(*WAYS),
        "seconds": number(0, 86_400),
        "status": whole(400, 599),
        "copies": whole(0, 1000),
        "takes_effect": _flag_or_none,
        "remembered": _flag_or_none,
        "times": whole(0, nullable=True),
        "probability": number(0, 1),
    },
    ("kind",),
)
