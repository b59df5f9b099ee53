"""The tree as JSON Schema (draft 2020-12), for editors that complete and underline config.yaml."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.json_schema import GenerateJsonSchema

from gateway.config.tree import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = {"type": "string", "pattern": r"\$\{[^{}]+\}"}
"""`${PORT:-8080}` stands for a number too: it becomes one when the file is loaded."""

_TYPED = ("integer", "number", "boolean")


class _Generator(GenerateJsonSchema):
    """Pydantic's schema without the titles it makes up from names; defaults of secret fields as they are.

    What is written in tree.py as a default is no secret, and a row of asterisks is not the default.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, SecretStr):
            return dft.get_secret_value()
        return super().encode_default(dft)


def plain_schema(model: type[BaseModel] = Config) -> dict[str, Any]:
    """The schema of what the tree takes once `${…}` is resolved."""
    return model.model_json_schema(schema_generator=_Generator)


def editor_schema() -> dict[str, Any]:
    """The schema of what may be written in the file: `${…}` is also allowed where a number or a word is wanted."""
    schema = plain_schema()
    definitions = schema.pop("$defs")
    return {
        "$schema": DIALECT,
        "title": "credit-gateway's config.yaml",
        **_writable(schema),
        "$defs": {name: _writable(definition) for name, definition in definitions.items()},
    }


def editor_schema_text() -> str:
    """The content of config.schema.json."""
    return json.dumps(editor_schema(), indent=2, ensure_ascii=False) + "\n"


def _writable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with a reference allowed beside each value that is not free text."""
    schema = {key: value for key, value in schema.items() if key not in ("title", "writeOnly")}
    for container in ("properties", "patternProperties"):
        if container in schema:
            schema[container] = {name: _writable(child) for name, child in schema[container].items()}
    if "items" in schema:
        schema["items"] = _writable(schema["items"])
    if "anyOf" in schema:
        schema["anyOf"] = [_without_reference(branch) for branch in schema["anyOf"]]
        if any(branch.get("type") in _TYPED for branch in schema["anyOf"]):
            schema["anyOf"].append(REFERENCE)
    elif schema.get("type") in _TYPED or "enum" in schema or "pattern" in schema:
        about: dict[str, Any] = {
            key: schema.pop(key) for key in ("description", "default", "examples") if key in schema
        }
        return {**about, "anyOf": [schema, REFERENCE]}
    return schema


def _without_reference(branch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in branch.items() if key not in ("title", "writeOnly")}
