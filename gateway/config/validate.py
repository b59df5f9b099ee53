"""The document against the tree: every value that is missing, unknown or of the wrong kind, where it stands.

A file with one mistake usually has several. So what is wrong is reported and then replaced by a stand-in, until the
rest makes a Config that the checks across fields (check.py) can look at too. That Config is never used for more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.document import Mapping, Node, Scalar, Sequence, lookup
from gateway.config.expectation import Expectations
from gateway.config.problem import Finding, Path, did_you_mean
from gateway.config.tree import Config

_ROUNDS_MAX = 8
"""A stand-in can be found wanting only once; more rounds than this would be a defect, not a config."""
_LEFT_OUT = object()
_ABOUT_THE_KEY = ("extra_forbidden", "[key]")
_NAME_WORDS = "a name has lower-case letters, digits, - and _, 63 at most, and starts with a letter or a digit"


@dataclass(frozen=True, slots=True)
class _Error:
    """One of pydantic's errors, placed in the document."""

    kind: str
    path: Path


class Validation:
    """One document being validated.

    After `run`, `findings` say what is wrong and `broken` are the paths whose values are not the file's own;
    `known` paths were reported by others before and are not reported again.
    """

    def __init__(self, root: Node, known: Iterable[Path] = ()) -> None:
        self.findings: list[Finding] = []
        self.broken: set[Path] = set(known)
        self._root = root
        self._known = frozenset(self.broken)
        self._repairs: dict[Path, Any] = {}

    def run(self) -> Config | None:
        """The Config, with stand-ins where the file is wrong; None when nothing can be made of it."""
        for _ in range(_ROUNDS_MAX):
            values = _values(self._root)
            for path, value in self._repairs.items():
                _apply(values, path, value)
            try:
                return Config.model_validate(_frozen(values), strict=True)
            except ValidationError as invalid:
                errors = invalid.errors(include_url=False, include_input=False, include_context=False)
            if not self._mend([_placed(self._root, error) for error in errors]):
                return None
        return None

    def _mend(self, errors: list[_Error]) -> bool:
        """Report and repair; False when that is not possible."""
        suggested = {self._suggested_key(error) for error in errors if error.kind == "extra_forbidden"}
        for error in _innermost(errors):
            node = lookup(self._root, error.path)
            if error.kind not in _ABOUT_THE_KEY and self._retype(node):
                continue
            if not error.path or error.path in self._repairs:
                self._find(error, node)
                return False
            if error.kind == "missing" and error.path in suggested:
                self.broken.add(error.path)
            else:
                self._find(error, node)
            self._repair(error)
        return True

    def _retype(self, node: Node | None) -> bool:
        """`port: ${PORT}` is text until a number is wanted. Then it is read as if it stood in the file."""
        if not isinstance(node, Scalar) or not node.sources or node.retyped:
            return False
        node.retype()
        return node.value != node.text

    def _find(self, error: _Error, node: Node | None) -> None:
        if error.path in self._known or error.path in self.broken:
            return
        suggestion = None
        if error.kind == "missing":
            message = "is missing"
        elif error.kind == "extra_forbidden":
            message, suggested = "unknown key", self._suggested_key(error)
            suggestion = str(suggested[-1]) if suggested else None
            self.broken |= {suggested} if suggested else set()
        elif error.kind == "[key]":
            message = _NAME_WORDS
        else:
            message = self._mismatch(error.path, node)
            suggestion = _expectations().suggestion(error.path, node)
        at_key = error.kind in _ABOUT_THE_KEY
        self.findings.append(Finding(error.path, message, suggestion, at_key=at_key))

    def _mismatch(self, path: Path, node: Node | None) -> str:
        expected = f"expected {_expectations().words(path)}"
        if isinstance(node, Scalar) and node.sources:
            return f"{expected}, which the value of {' and '.join(node.sources)} is not"
        return f"{expected}, got {_expectations().got(path, node)}"

    def _suggested_key(self, error: _Error) -> Path | None:
        parent, key = error.path[:-1], str(error.path[-1])
        mapping = lookup(self._root, parent)
        taken = mapping.entries if isinstance(mapping, Mapping) else {}
        near = did_you_mean(key, (name for name in _expectations().keys(parent) if name not in taken))
        return (*parent, near) if near else None

    def _repair(self, error: _Error) -> None:
        if error.kind == "extra_forbidden":
            self._repairs[error.path] = _LEFT_OUT
            return
        self.broken.add(error.path)
        leave_out = error.kind == "[key]" or not _expectations().required(error.path)
        self._repairs[error.path] = _LEFT_OUT if leave_out else _expectations().stand_in(error.path)


@cache
def _expectations() -> Expectations:
    """Made, and its makers imported, when the first thing is wrong: a schema takes longer than validating."""
    from gateway.config.schema import plain_schema

    return Expectations(plain_schema())


def _placed(root: Node, error: ErrorDetails) -> _Error:
    """Pydantic names the members of a union inside the path; the document does not know those names."""
    path: list[str | int] = []
    node: Node | None = root
    for step in error["loc"]:
        if step == "[key]":
            return _Error("[key]", tuple(path))
        child = lookup(node, (step,)) if node is not None else None
        if child is not None:
            path.append(step)
            node = child
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    return _Error(error["type"], tuple(path))


def _innermost(errors: list[_Error]) -> list[_Error]:
    """One error for a path, and none for a value that has a more exact one inside (unions report both)."""
    by_path = {error.path: error for error in reversed(errors)}
    inside = {path[:length] for path in by_path for length in range(len(path))}
    return [error for path, error in by_path.items() if path not in inside or error.kind == "[key]"]


def _values(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {key: _values(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [_values(item) for item in node.items]
    return node.value


def _apply(values: Any, path: tuple[Any, ...], value: Any) -> None:
    """Replace what is at the path, if that place is still there."""
    for step in path[:-1]:
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            return
    if isinstance(values, dict) and value is _LEFT_OUT:
        values.pop(path[-1], None)
    elif isinstance(values, (dict, list)):
        values[path[-1]] = value


def _frozen(values: Any) -> Any:
    """Lists as tuples: the tree is immutable, and strict validation takes no list for a tuple."""
    if isinstance(values, dict):
        return {key: _frozen(value) for key, value in values.items()}
    return tuple(map(_frozen, values)) if isinstance(values, list) else values
