"""One call at a time: what a proxy adds to a call when nothing is in its way.

Beside the whole, the time over what nobody can save is told: the upstream's own answer, and the stub's for a proxy that
asks it. Both are measured alone, over the same loopback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.report import Figures, aligned

COLUMNS = ("", "p50 ms", "p99 ms", "p50 less the stub's", "p50 less the stub's and the upstream's", "errors")
ASKS_NOBODY = frozenset({"gateway", "plain"})
UNPROXIED = frozenset({"bare", "verify"})


def rows(figures: Sequence[Figures]) -> list[tuple[str, ...]]:
    """The table, its head first."""
    alone = {one.name: one.middle("p50_ms") for one in figures}
    return [COLUMNS, *(_cells(one, alone.get("verify"), alone.get("bare")) for one in figures)]


def _cells(one: Figures, stub_ms: float | None, upstream_ms: float | None) -> tuple[str, ...]:
    less_stub = less_both = ""
    if one.name not in UNPROXIED:
        asked_ms = 0.0 if one.name in ASKS_NOBODY else stub_ms
        if asked_ms is not None:
            added = one.middle("p50_ms") - asked_ms
            less_stub = f"{added:.3f}"
            less_both = "" if upstream_ms is None else f"{added - upstream_ms:.3f}"
    times = (f"{one.middle('p50_ms'):.3f}", f"{one.middle('p99_ms'):.3f}")
    return one.label, *times, less_stub, less_both, str(one.errors)


def table(figures: Sequence[Figures]) -> str:
    """For a terminal."""
    return "One call at a time:\n" + aligned(rows(figures))


def document(figures: Sequence[Figures]) -> list[dict[str, object]]:
    """For --json."""
    return [
        {
            "name": one.name,
            "label": one.label,
            "p50_ms": one.middle("p50_ms"),
            "p99_ms": one.middle("p99_ms"),
            "errors": one.errors,
            "rounds": [asdict(run) for run in one.runs],
        }
        for one in figures
    ]
