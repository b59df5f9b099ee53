"""What the tree wants at a path, read from its JSON Schema, in plain English.

Pydantic says which values are wrong; this says what would have been right ("a whole number from 1 to 256").
"""

from __future__ import annotations

from typing import Any

from gateway.config.document import Mapping, Node, Scalar, Sequence
from gateway.config.problem import Path, did_you_mean, quote

Schema = dict[str, Any]

_PATTERNS = {
    r"^[a-z]{3}$": "three lower-case letters, as usd",
    r"^[A-Za-z0-9-]+$": "a header name of letters, digits and -",
    r"^/[!-~]*$": "a path that begins with /, without spaces",
}
_PASSWORD = "password"  # noqa: S105 - JSON Schema's word for a secret


class Expectations:
    """Answers questions about a JSON Schema (of the tree) by path."""

    def __init__(self, schema: Schema) -> None:
        self._root = schema
        self._definitions: dict[str, Schema] = schema.get("$defs", {})

    def at(self, path: Path) -> Schema:
        """The schema of the value at a path; {} where the tree knows nothing."""
        schema = self._resolved(self._root)
        for step in path:
            schema = self._child(schema, step)
        return schema

    def keys(self, path: Path) -> list[str]:
        """The keys that a mapping at this path may have."""
        return [key for branch in self._branches(self.at(path)) for key in branch.get("properties", ())]

    def required(self, path: Path) -> bool:
        """Whether the value at this path must be there."""
        if not path or isinstance(path[-1], int):
            return True
        parents = self._branches(self.at(path[:-1]))
        return any(path[-1] in parent.get("required", ()) or "patternProperties" in parent for parent in parents)

    def words(self, path: Path) -> str:
        """What is wanted here: "true or false", "a number greater than 0 and at most 86400"."""
        branches = [branch for branch in self._branches(self.at(path)) if branch.get("type") != "null"]
        return " or ".join(_words(branch) for branch in branches)

    def got(self, path: Path, node: Node | None) -> str:
        """What is there instead, never showing what could be a secret."""
        if isinstance(node, Mapping):
            return "a mapping"
        if isinstance(node, Sequence):
            return "a list" if node.items else "an empty list"
        if node is None or node.value is None:
            return "nothing"
        if node.value == "":
            return "an empty string"
        if isinstance(node.value, str):
            return quote(node.value) if self._may_show(path) else "a string"
        hint = " (put it in quotes)" if self._takes_text(path) else ""
        if self._may_show(path):
            return f"{node.text}{hint}"
        return f"a {'boolean' if isinstance(node.value, bool) else 'number'}{hint}"

    def suggestion(self, path: Path, node: Node | None) -> str | None:
        """The allowed word nearest to the one that is there."""
        words = self.at(path).get("enum", ())
        if not isinstance(node, Scalar) or node.sources or not words:
            return None
        return did_you_mean(node.text, words)

    def stand_in(self, path: Path) -> Any:
        """A value that is allowed here, so that the rest of the file can be checked."""
        return self._stand_in(self.at(path))

    def _stand_in(self, schema: Schema) -> Any:
        branch = self._branches(schema)[0]
        if "examples" in branch:
            return branch["examples"][0]
        if "enum" in branch:
            return branch["enum"][0]
        match branch.get("type"):
            case "object":
                properties = branch.get("properties", {})
                return {key: self._stand_in(self._resolved(properties[key])) for key in branch.get("required", ())}
            case "array":
                return []
            case "integer" | "number":
                return branch.get("minimum", 1)
            case "boolean":
                return False
            case _:
                return "x"

    def _takes_text(self, path: Path) -> bool:
        branches = self._branches(self.at(path))
        return any(branch.get("type") == "string" and "enum" not in branch for branch in branches)

    def _may_show(self, path: Path) -> bool:
        """Not secrets, and no word where a whole section belongs: `stripe: sk_live_…` would be one."""
        branches = self._branches(self.at(path))
        if any(branch.get("format") == _PASSWORD for branch in branches):
            return False
        return any(branch.get("type") in ("integer", "number", "boolean", "string") for branch in branches)

    def _child(self, schema: Schema, step: str | int) -> Schema:
        for branch in self._branches(schema):
            if isinstance(step, int):
                found = branch.get("items")
            else:
                patterns = branch.get("patternProperties", {})
                any_other = branch.get("additionalProperties")  # False where the section is closed
                found = branch.get("properties", {}).get(step) or next(iter(patterns.values()), any_other)
            if found:
                return self._resolved(found)
        return {}

    def _branches(self, schema: Schema) -> list[Schema]:
        return [self._resolved(branch) for branch in schema["anyOf"]] if "anyOf" in schema else [schema]

    def _resolved(self, schema: Schema) -> Schema:
        if "$ref" not in schema:
            return schema
        definition = self._definitions[schema["$ref"].rsplit("/", 1)[-1]]
        return {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}


def _words(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    match schema.get("type"):
        case "integer":
            return "a whole number" + _bounds(schema)
        case "number":
            return "a number" + _bounds(schema)
        case "boolean":
            return "true or false"
        case "array":
            return "a list with at least one item" if schema.get("minItems") else "a list"
        case "object":
            required = schema.get("required")
            return "a mapping with " + ", ".join(required) if required else "a mapping"
        case "string":
            kind = "a secret" if schema.get("format") == _PASSWORD else "a string"
            default = f"{kind} that is not empty" if schema.get("minLength") else kind
            return _PATTERNS.get(schema.get("pattern", ""), default)
        case _:
            return "something else"


def _bounds(schema: Schema) -> str:
    least, most, above = schema.get("minimum"), schema.get("maximum"), schema.get("exclusiveMinimum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if above is not None and most is not None:
        return f" greater than {above} and at most {most:g}"
    if above is not None:
        return f" greater than {above}"
    return f" of at least {least}" if least is not None else ""
