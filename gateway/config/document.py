"""YAML text in, a tree of nodes with positions out.

Built from parser events with a stack of its own, so that nothing in the file decides how deep Python recurses.
Refused: aliases and anchors (a few lines of them make 10⁸ nodes), tags, duplicate keys, a second document, more than
DEPTH_MAX levels or NODES_MAX values. What can be said about the rest of the file is still said.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml
from yaml import events
from yaml.reader import Reader

from gateway.config.problem import Path
from gateway.config.scalar import Value, typed

DEPTH_MAX = 32
NODES_MAX = 20_000
"""PyYAML needs some 50 µs for a value: this many take about a second, a megabyte of `a: [1,1,…` would take 20."""

Report = Callable[[int, int, Path, str], None]
"""Takes a problem: line, column, path, message."""


@dataclass(slots=True)
class Scalar:
    """A single value. `sources` name what was interpolated into it; then `text` must not be shown to anyone."""

    line: int
    column: int
    text: str
    plain: bool
    value: Value
    sources: tuple[str, ...] = ()
    retyped: bool = False

    @property
    def empty(self) -> bool:
        """Nothing was written here: `key:` and a line end."""
        return self.plain and not self.text and not self.sources

    def retype(self) -> None:
        """Read text that came from outside as if it stood in the file without quotes."""
        self.value = typed(self.text)
        self.retyped = True


@dataclass(slots=True)
class Sequence:
    line: int
    column: int
    items: list[Node] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    line: int
    column: int
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """A key of a mapping, where it stands, and its value."""

    line: int
    column: int
    node: Node


Node = Scalar | Sequence | Mapping


class NotYaml(Exception):
    """The text can't be read to its end, or should not be. `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.message = message


def parse(text: str, report: Report) -> Node:
    """The document's tree. Reports what is not allowed but can be read past; raises NotYaml otherwise.

    A file without content is an empty mapping.
    """
    unprintable = Reader.NON_PRINTABLE.search(text)
    if unprintable is not None:
        before = text[: unprintable.start()]
        raise NotYaml(before.count("\n") + 1, len(before) - before.rfind("\n"), "control characters are not allowed")
    loader = yaml.SafeLoader(text)
    builder = _Builder(report)
    try:
        while loader.check_event():
            builder.take(loader.get_event())  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise NotYaml(line, column, _plain_english(error.problem or error.context or "")) from None
    except (yaml.YAMLError, ValueError, OverflowError, IndexError):
        # The scanner lets `"\UFFFFFFFF"` and `%YAML 1.<5,000 digits>` through to chr() and int().
        raise NotYaml(loader.line + 1, loader.column + 1, "this is not valid YAML") from None
    finally:
        loader.dispose()
    root = builder.root
    return Mapping(1, 1) if root is None or (isinstance(root, Scalar) and root.empty) else root


_ENGLISH = (
    ("mapping values are not allowed", "a ':' can't stand here: check the indentation, or put the value in quotes"),
    ("found character '\\t'", "tabs can't indent: use spaces"),
    ("could not find expected ':'", "expected `key: value`; check the ':' and the indentation"),
    ("but found '<block mapping start>'", "the indentation does not fit the lines above"),
    ("but found '<block sequence start>'", "the indentation does not fit the lines above"),
    ("found unexpected end of stream", "a quote is opened and never closed"),
    ("expected ',' or", "a bracket is not closed, a ',' is missing, or a ${…} inside brackets lacks its quotes"),
    ("found unknown escape character", 'an unknown escape in double quotes: write "\\\\" for a backslash'),
    ("that cannot start any token", "a value can't start with this character: put it in quotes"),
)


def _plain_english(problem: str) -> str:
    """Never PyYAML's own text: it may quote the file, and what it quotes may be a secret."""
    for found, message in _ENGLISH:
        if found in problem:
            return message
    expected = re.match(r"expected (<[a-z ]+>)", problem)
    return f"this is not valid YAML: expected {expected[1]}" if expected else "this is not valid YAML"


@dataclass(slots=True)
class _Open:
    """A collection that is still being filled; `key` is the mapping's key that waits for its value."""

    node: Sequence | Mapping
    path: Path
    key: Node | None = None


class _Builder:
    """Puts events together."""

    def __init__(self, report: Report) -> None:
        self.root: Node | None = None
        self._report = report
        self._open: list[_Open] = []
        self._nodes = 0
        self._documents = 0

    def take(self, event: events.Event) -> None:
        match event:
            case events.ScalarEvent():
                self._refuse_decorations(event)
                self._add(_scalar(event))
            case events.SequenceStartEvent():
                self._start(event, Sequence(*_position(event)))
            case events.MappingStartEvent():
                self._start(event, Mapping(*_position(event)))
            case events.SequenceEndEvent() | events.MappingEndEvent():
                self._open.pop()
            case events.AliasEvent():
                line, column = _position(event)
                self._report(line, column, self._path(), "aliases are not allowed: write the value out")
                self._add(Scalar(line, column, "", plain=True, value=None))
            case events.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise NotYaml(*_position(event), "only one document is allowed")

    def _start(self, event: events.CollectionStartEvent, node: Sequence | Mapping) -> None:
        self._refuse_decorations(event)
        if len(self._open) == DEPTH_MAX:
            raise NotYaml(*_position(event), f"nested deeper than {DEPTH_MAX} levels")
        path = self._path()
        self._add(node)
        self._open.append(_Open(node, path))

    def _refuse_decorations(self, event: events.NodeEvent) -> None:
        line, column = _position(event)
        if event.anchor is not None:
            self._report(line, column, self._path(), "anchors are not allowed")
        if getattr(event, "tag", None) is not None:
            self._report(line, column, self._path(), "tags are not allowed")

    def _add(self, node: Node) -> None:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise NotYaml(node.line, node.column, f"more than {NODES_MAX} values")
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent.node, Sequence):
            parent.node.items.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            self._add_entry(parent, parent.node, parent.key, node)

    def _add_entry(self, parent: _Open, mapping: Mapping, key: Node, value: Node) -> None:
        parent.key = None
        if not isinstance(key, Scalar):
            self._report(key.line, key.column, parent.path, "a key must be a single word")
            return
        first = mapping.entries.get(key.text)
        if first is not None:
            message = f"this key is there twice (first in line {first.line})"
            self._report(key.line, key.column, (*parent.path, key.text), message)
            return
        mapping.entries[key.text] = Entry(key.line, key.column, value)

    def _path(self) -> Path:
        """Where the next value goes."""
        if not self._open:
            return ()
        parent = self._open[-1]
        if isinstance(parent.node, Sequence):
            return (*parent.path, len(parent.node.items))
        return (*parent.path, parent.key.text) if isinstance(parent.key, Scalar) else parent.path


def _scalar(event: events.ScalarEvent) -> Scalar:
    plain = event.style is None
    return Scalar(*_position(event), event.value, plain, typed(event.value) if plain else event.value)


def _position(event: events.Event) -> tuple[int, int]:
    mark = event.start_mark
    assert mark is not None  # None only on events that were made by hand
    return mark.line + 1, mark.column + 1


def lookup(root: Node, path: Path) -> Node | None:
    """The node at a path, or None."""
    node = root
    for step in path:
        if isinstance(node, Mapping) and isinstance(step, str) and step in node.entries:
            node = node.entries[step].node
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return None
    return node
