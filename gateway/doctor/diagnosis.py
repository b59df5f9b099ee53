"""What the doctor says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """`warn`: it works, and somebody should look at it. `FAIL`: calls fail, or will."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One line. `text` says what was found; of what is not ok, also what to do about it."""

    state: State
    what: str
    text: str


def ok(what: str, text: str) -> Diagnosis:
    return Diagnosis(State.OK, what, text)


def warn(what: str, text: str) -> Diagnosis:
    return Diagnosis(State.WARN, what, text)


def fail(what: str, text: str) -> Diagnosis:
    return Diagnosis(State.FAIL, what, text)
