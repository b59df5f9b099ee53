"""Rows as PostgreSQL's arrays, one for each column: so a statement is the same for any number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

BYTES, WORDS = "bytea", "text"
KIND_OF_COLUMN = dict.fromkeys(("key_hash", "lookup", "fingerprint", "answer"), BYTES) | dict.fromkeys(
    ("route", "request_id", "reason", "cause", "name"), WORDS
)
"""All others are bigint."""


@cache
def unnest(columns: tuple[str, ...], first: int = 1) -> str:
    """The rows again, as a table `t` for the FROM of a statement whose values from $`first` on are these columns'
    arrays."""
    arrays = ", ".join(f"${at}::{KIND_OF_COLUMN.get(name, 'bigint')}[]" for at, name in enumerate(columns, first))
    return f"unnest({arrays}) AS t ({', '.join(columns)})"


def arrays(columns: Sequence[str], values: Sequence[Any]) -> list[str]:
    """An array for each column, of rows that lie behind one another."""
    width = len(columns)
    return [array(values[at::width], KIND_OF_COLUMN.get(name, "bigint")) for at, name in enumerate(columns)]


def bigints(values: Sequence[int | None]) -> str:
    if None in values:
        return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"
    return "{" + ",".join(map(str, values)) + "}"


def array(values: Sequence[Any], kind: str) -> str:
    """PostgreSQL's text of an array. psycopg's own adapter of lists costs twice as much as all the rest."""
    if kind == WORDS:
        return _words(values)
    if kind == BYTES:
        return "{" + ",".join(["NULL" if value is None else f'"\\\\x{value.hex()}"' for value in values]) + "}"
    return bigints(values)


def _words(values: Sequence[Any]) -> str:
    if None in values:
        return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"
    words = '","'.join(values)
    if "\\" in words or words.count('"') != 2 * len(values) - 2:
        words = '","'.join([_escaped(value) for value in values])
    return f'{{"{words}"}}' if values else "{}"


def _quoted(word: str) -> str:
    return f'"{_escaped(word)}"'


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"')
