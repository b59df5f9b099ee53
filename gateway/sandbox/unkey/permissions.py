"""Permission queries (`a AND (b OR c)`) and what a root key may do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection

from gateway.sandbox.unkey.answers import Refusal

WORKSPACE = "ws_sandbox"
EVERY_PERMISSION = tuple(
    f"api.*.{action}" for action in ("verify_key", "create_key", "read_key", "update_key", "delete_key", "read_api")
)
_TOKEN = re.compile(r"\s*([()]|[A-Za-z0-9._:/*-]+)")
_WORDS = frozenset({"AND", "OR"})
NESTING_MAX = 10


@dataclasses.dataclass(frozen=True, slots=True)
class RootKey:
    """A credential of the API itself, with its permissions (`api.<apiId>.verify_key`, `api.*.read_key`, …)."""

    permissions: tuple[str, ...] = EVERY_PERMISSION
    enabled: bool = True
    workspace: str = WORKSPACE
    """Of another workspace than the sandbox's, it finds none of its keys and APIs."""

    def may(self, action: str, api_id: str) -> bool:
        sees = self.workspace == WORKSPACE
        return sees and (f"api.{api_id}.{action}" in self.permissions or f"api.*.{action}" in self.permissions)

    def may_somewhere(self, action: str) -> bool:
        return any(held.startswith("api.") and held.endswith("." + action) for held in self.permissions)


def lacks(action: str, api_id: str) -> Refusal:
    """The 403 of a root key without that permission."""
    return Refusal(
        403,
        "unkey/authorization/insufficient_permissions",
        f"Missing one of these permissions: api.*.{action}, api.{api_id}.{action}.",
        title="Insufficient Permissions",
    )


def allows(query: str, held: Collection[str]) -> bool:
    """Whether these permissions satisfy the query; AND binds tighter than OR. Raises Refusal 400."""
    return _Query(query, held).read()


class _Query:
    """A query that is evaluated while it is read."""

    def __init__(self, query: str, held: Collection[str]) -> None:
        self._held = held
        self._tokens = _tokens(query)
        self._at = 0

    def read(self) -> bool:
        allowed = self._alternatives(0)
        if self._at < len(self._tokens):
            raise _syntax_error(f"Unexpected token '{self._tokens[self._at]}' after a complete query.")
        return allowed

    def _alternatives(self, depth: int) -> bool:
        allowed = self._conjunction(depth)
        while self._next_is("OR"):
            # Both sides are read, whatever the first is.
            allowed |= self._conjunction(depth)
        return allowed

    def _conjunction(self, depth: int) -> bool:
        allowed = self._term(depth)
        while self._next_is("AND"):
            allowed &= self._term(depth)
        return allowed

    def _term(self, depth: int) -> bool:
        if self._next_is("("):
            if depth == NESTING_MAX:
                raise _syntax_error("The query is nested too deeply.")
            allowed = self._alternatives(depth + 1)
            if not self._next_is(")"):
                raise _syntax_error("Missing closing parenthesis.")
            return allowed
        if self._at == len(self._tokens):
            raise _syntax_error("Unexpected end of query. Expected a permission identifier or opening parenthesis.")
        word = self._tokens[self._at]
        if word == ")" or word.upper() in _WORDS:
            raise _syntax_error(f"Unexpected token '{word}'. Expected a permission identifier.")
        self._at += 1
        return word in self._held

    def _next_is(self, word: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at].upper() == word
        self._at += found
        return found


def _tokens(query: str) -> list[str]:
    tokens, at = [], 0
    end = len(query.rstrip())
    while at < end:
        found = _TOKEN.match(query, at)
        if found is None:
            raise _syntax_error(f"Invalid character in the query at position {at}.")
        tokens.append(found[1])
        at = found.end()
    return tokens


def _syntax_error(detail: str) -> Refusal:
    return Refusal(400, "user/bad_request/permissions_query_syntax_error", detail)
