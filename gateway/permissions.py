"""Permissions: the names that a key carries, and the query by which a route asks for them.

    query       = alternative { "OR" alternative }
    alternative = term { "AND" term }
    term        = name | "(" query ")"

AND binds tighter than OR; both may be written in any case. `*` is a character like any other: `api.*` asks for the
permission of exactly that name. This is Unkey's language, so that a route means the same whoever keeps the keys; where
Unkey sets no bound, there is one here.
"""

from __future__ import annotations

import re
from collections.abc import Collection

QUERY_MAX_CHARACTERS = 1_000
NAMES_MAX = 100
"""Names in one query."""
NESTING_MAX = 10
"""Parentheses within each other."""
_PERMISSION = re.compile(r"[A-Za-z0-9_:.*-]{1,100}")
_TOKEN = re.compile(r"[ \t\r\n]*([()]|[A-Za-z0-9_:.*/-]+)")
_BLANK = " \t\r\n"

_Node = str | tuple[bool, tuple["_Node", ...]]
"""A name, or nodes of which any (True) or all (False) must hold."""


def is_permission(name: str) -> bool:
    """Whether a key can carry this: 1 to 100 letters, digits and _ : . * -"""
    return _PERMISSION.fullmatch(name) is not None


class PermissionQuery:
    """A query, read once. Raises ValueError, saying where and how it is wrong without quoting it."""

    __slots__ = ("_node",)

    def __init__(self, text: str) -> None:
        self._node = _Reader(text).read()

    def allows(self, held: Collection[str]) -> bool:
        """Whether a key with these permissions may pass."""
        return _holds(self._node, held)


def _holds(node: _Node, held: Collection[str]) -> bool:
    if isinstance(node, str):
        return node in held
    is_any, parts = node
    for part in parts:
        if _holds(part, held) is is_any:
            return is_any
    return not is_any


class _Reader:
    """Reads one query, token by token. `_places` are where the tokens begin, counted from 1."""

    def __init__(self, text: str) -> None:
        if len(text) > QUERY_MAX_CHARACTERS:
            raise ValueError(f"a query has {QUERY_MAX_CHARACTERS} characters at most")
        self._tokens, self._places = _split(text)
        self._at = 0
        self._names = 0

    def read(self) -> _Node:
        node = self._read_any(0)
        if self._at < len(self._tokens):
            raise ValueError(f"{self._place()}: expected AND, OR or the end")
        return node

    def _read_any(self, depth: int) -> _Node:
        parts = [self._read_all(depth)]
        while self._next_is("OR"):
            parts.append(self._read_all(depth))
        return parts[0] if len(parts) == 1 else (True, tuple(parts))

    def _read_all(self, depth: int) -> _Node:
        parts = [self._read_term(depth)]
        while self._next_is("AND"):
            parts.append(self._read_term(depth))
        return parts[0] if len(parts) == 1 else (False, tuple(parts))

    def _read_term(self, depth: int) -> _Node:
        place = self._place()
        if self._next_is("("):
            if depth == NESTING_MAX:
                raise ValueError(f"{place}: parentheses are nested {NESTING_MAX} deep at most")
            node = self._read_any(depth + 1)
            if not self._next_is(")"):
                raise ValueError(f"{self._place()}: expected AND, OR or the ) of the ( at {place}")
            return node
        token = self._tokens[self._at] if self._at < len(self._tokens) else ""
        if token.upper() in ("", ")", "AND", "OR"):
            raise ValueError(f"{place}: expected a permission or (")
        self._at += 1
        self._names += 1
        if self._names > NAMES_MAX:
            raise ValueError(f"{place}: a query names {NAMES_MAX} permissions at most")
        return token

    def _next_is(self, word: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at].upper() == word
        self._at += found
        return found

    def _place(self) -> str:
        return f"character {self._places[self._at]}" if self._at < len(self._tokens) else "the end"


def _split(text: str) -> tuple[list[str], list[int]]:
    tokens: list[str] = []
    places: list[int] = []
    at, end = 0, len(text.rstrip(_BLANK))
    while at < end:
        found = _TOKEN.match(text, at, end)
        if found is None:
            wrong = len(text) - len(text[at:].lstrip(_BLANK)) + 1
            raise ValueError(f"character {wrong}: allowed are letters, digits, _ : . * / - and parentheses")
        tokens.append(found[1])
        places.append(found.start(1) + 1)
        at = found.end()
    return tokens, places
