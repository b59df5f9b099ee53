"""When a key ends, as people write it: `30d`, `12h`, `2027-01-31`, `2027-01-31T12:00:00Z`."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import typer

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
EXPIRES_MAX_MS = 253_402_300_799_000
"""The last second of the year 9999: no calendar here goes further."""
_SPAN = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
_ACCEPTED = "expected a span as 30d, 12h or 90m, or a date as 2027-01-31 or 2027-01-31T12:00:00Z (UTC)"


def read_expiry(text: str, *, now_ms: int) -> int:
    """The time in Unix milliseconds. Raises typer.BadParameter for what is no time, or a time that has passed."""
    span = _SPAN.fullmatch(text)
    if span is not None:
        expires_at_ms = now_ms + int(span[1]) * _UNITS_MS[span[2]]
        if expires_at_ms > EXPIRES_MAX_MS:
            raise typer.BadParameter("that is after the year 9999", param_hint="--expires")
        return expires_at_ms
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(_ACCEPTED, param_hint="--expires") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    expires_at_ms = int(moment.timestamp() * 1000)
    if expires_at_ms <= now_ms:
        raise typer.BadParameter("this time has passed", param_hint="--expires")
    return expires_at_ms
