"""Switches that make the stand-in upstream fail, stall and lie.

For one request by its header, for all by `POST /sandbox/switches` with the same names as JSON members:

    X-Sandbox: stall=0.5, fail=503

| switch | the stand-in then |
|---|---|
| fail=STATUS | answers that status with a JSON error |
| stall=SECONDS | waits before the head |
| stall_body=SECONDS | waits when half of the body is out (in a stream: after the first event) |
| slow_stream=SECONDS | waits between the events of a stream |
| reset | resets the connection (RST) instead of answering |
| truncate | closes the connection when half of the body is out, leaving the message incomplete |
| lie_length=BYTES | announces so many bytes more than it sends (-10: fewer), in a stream in its last event's chunk |
| credits_used=TEXT | tells X-Credits-Used: TEXT, in a stream as a trailer; any text, so that it may be nonsense |
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Self

STALL_SECONDS_MAX = 3600.0
LIE_BYTES = -10
VISIBLE_TEXT = re.compile(r"[!-~]{1,100}")


class BadSwitch(ValueError):
    """A switch that does not exist or a value that it can't have; the message says which."""


@dataclasses.dataclass(frozen=True, slots=True)
class Switches:
    """How an answer misbehaves; the defaults are an honest, quick answer. Times in seconds."""

    fail: int = 0
    stall: float = 0.0
    stall_body: float = 0.0
    slow_stream: float = 0.0
    reset: bool = False
    truncate: bool = False
    lie_length: int = 0
    credits_used: str = ""

    def with_header(self, header: str) -> Self:
        """These switches, with those of an X-Sandbox header over them. Raises BadSwitch."""
        changes: dict[str, Any] = {}
        for item in re.split(r"[,;\s]+", header.strip()):
            name, given, value = item.partition("=")
            if name:
                changes[name] = value if given else True
        return self.with_changes(changes)

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """These switches with some set anew, from text or JSON values. Raises BadSwitch."""
        read = {name: _read(name, value) for name, value in changes.items()}
        return dataclasses.replace(self, **read) if read else self

    def document(self) -> dict[str, Any]:
        """The switches as JSON shows and takes them."""
        return dataclasses.asdict(self)


HONEST = Switches()


def _read(name: str, value: Any) -> Any:
    """The value in the switch's own type."""
    try:
        reader = READERS[name]
    except KeyError:
        raise BadSwitch(f"no switch {name!r}; there are {', '.join(READERS)}") from None
    try:
        return reader(value)
    except (ValueError, TypeError):
        raise BadSwitch(f"{name} can't be {value!r}") from None


def _status(value: Any) -> int:
    status = _whole(value)
    if status != 0 and not 400 <= status <= 599:
        raise ValueError
    return status


def _seconds(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    seconds = float(value)
    if not 0 <= seconds <= STALL_SECONDS_MAX:  # NaN too is refused by this comparison
        raise ValueError
    return seconds


def _whole(value: Any) -> int:
    if isinstance(value, (bool, float)):
        raise TypeError
    return int(value)


def _lie(value: Any) -> int:
    return LIE_BYTES if value is True else _whole(value)


def _flag(value: Any) -> bool:
    flags = {True: True, False: False, "1": True, "0": False, "true": True, "false": False}
    if value not in flags:
        raise ValueError
    return flags[value]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        raise TypeError
    text = str(value)
    if text and not VISIBLE_TEXT.fullmatch(text):
        raise ValueError
    return text


READERS = {
    "fail": _status,
    "stall": _seconds,
    "stall_body": _seconds,
    "slow_stream": _seconds,
    "reset": _flag,
    "truncate": _flag,
    "lie_length": _lie,
    "credits_used": _text,
}
