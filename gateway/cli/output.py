"""What commands print: aligned tables for people, one JSON document for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

NOTHING = "-"


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def print_table(titles: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """The rows under their titles, columns aligned; those named in `right` to the right."""
    lines = [tuple(titles), *(tuple(map(shown, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, cell, width in zip(titles, line, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """One thing: a name and a value a line."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name.ljust(width)}  {shown(value)}")


def shown(value: object) -> str:
    """The value on one line, with nothing in it that a terminal would obey."""
    if value is None or value == "":
        return NOTHING
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in str(value))


def shown_time(unix_ms: int | None) -> str:
    """A time of the ledger in UTC, to the second."""
    if unix_ms is None:
        return NOTHING
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # beyond any calendar; a list must not fail for one row
        return f"{unix_ms} ms"


def shown_credits(credits: int | None) -> str:
    return "unlimited" if credits is None else str(credits)
