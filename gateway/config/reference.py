"""docs/config.md: every key of the tree with its type, default and meaning. Generated, so never out of date."""

from __future__ import annotations

import json
from typing import Any

from gateway.config.expectation import Expectations
from gateway.config.problem import Path, dotted
from gateway.config.schema import plain_schema

_INTRODUCTION = """\
# config.yaml

One file says everything. `gateway check` tells what is wrong with it, `config.schema.json` lets editors complete it.
This page is made by `gateway schema --markdown`.

- **Closed**: a key that is not listed here is an error.
- **YAML 1.2**: only `true` and `false` are booleans; `no`, `on`, `22:30` and `010` are strings. Anchors, aliases, tags
  and duplicate keys are refused.
- **Values from outside**: `${VAR}` is an environment variable, which must be set; `${VAR:-default}` takes the default
  when it is not set or empty; `${file:/run/secrets/name}` is a file's content without its last line end; `$${` is a
  plain `${`. They may stand inside a longer text. Where a number or a boolean is wanted, the text is read as one, in
  quotes or not. Inside `{…}` put them in quotes: `{port: "${PORT:-8080}"}`.
- **Secret files** must not be readable by everyone (`chmod o-r`; in Kubernetes `defaultMode: 0440` with `fsGroup`).
- **Absent is default**, or off for what has no default. Units are in the names.
"""


def config_reference() -> str:
    """The whole page, in Markdown."""
    expectations = Expectations(plain_schema())
    lines = [_INTRODUCTION.rstrip()]
    waiting: list[Path] = [()]
    while waiting:
        path = waiting.pop(0)
        sections: list[Path] = []
        rows = [_row(expectations, (*path, key), sections) for key in expectations.keys(path)]
        rows = [row for row in rows if row]
        if path or rows:
            lines += _section(expectations, path, rows)
        waiting = sections + waiting
    return "\n".join(lines) + "\n"


def _section(expectations: Expectations, path: Path, rows: list[str]) -> list[str]:
    if not path:
        return []
    head = ["", f"## {_shown(path)}", "", str(expectations.at(path).get("description", ""))]
    if not rows:
        return head
    return [*head, "", "| key | value | default | meaning |", "|---|---|---|---|", *rows]


def _row(expectations: Expectations, path: Path, sections: list[Path]) -> str:
    """The table's row for a key; a key that has keys of its own gets a section instead."""
    schema = expectations.at(path)
    for inner in (path, (*path, 0), (*path, "<name>")):
        if expectations.keys(inner):
            sections.append(inner)
            if not _is_plain(expectations, path):
                return ""
    words = expectations.words(path).removeprefix("a list with at least one item").removeprefix("a list")
    if words != expectations.words(path):
        words = "list of " + expectations.words((*path, 0)).removeprefix("a ").replace("one of ", "") + words
    return f"| `{path[-1]}` | {words} | {_default(expectations, path, schema)} | {schema.get('description', '')} |"


def _is_plain(expectations: Expectations, path: Path) -> bool:
    """Whether the value, or what a list has, may also be written as a number or a text."""
    schemas = (expectations.at(path), expectations.at((*path, 0)))
    return any(
        branch.get("type") in ("integer", "string") for schema in schemas for branch in schema.get("anyOf", [schema])
    )


def _default(expectations: Expectations, path: Path, schema: dict[str, Any]) -> str:
    if expectations.required(path):
        return "**required**"
    default = schema.get("default")
    if default is None:
        return "–"
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def _shown(path: Path) -> str:
    return dotted(path).replace('"<name>"', "&lt;name&gt;").replace("[0]", "[]")
