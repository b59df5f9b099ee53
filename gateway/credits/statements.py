"""SQL that handles many rows in one step: a step through the driver costs more than a row."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


def by_count(write: Callable[..., str]) -> Callable[..., str]:
    """Statements differ by how many rows they handle: each is written once. (Batches are bounded, so these are too.)"""
    return cache(write)


def marks(count: int) -> str:
    """Question marks for `count` values."""
    return ",".join("?" * count)


def rows(count: int, row: str) -> str:
    """The row, with its parentheses, `count` times."""
    return ",".join([row] * count)
