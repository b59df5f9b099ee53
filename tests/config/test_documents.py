"""What is generated from the tree is checked in, current, and agrees with what loads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.config.expectation import Expectations
from gateway.config.reference import config_reference
from gateway.config.schema import DIALECT, editor_schema, editor_schema_text, plain_schema
from gateway.config.tree import Config

ROOT = Path(__file__).parent.parent.parent


def test_the_checked_in_schema_is_current():
    assert (ROOT / "config.schema.json").read_text() == editor_schema_text(), "run: gateway schema > config.schema.json"


def test_the_checked_in_reference_is_current():
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == config_reference(), "run: gateway schema --markdown > docs/config.md"


def leaves(schema, definitions, path=()):
    """Every value of the tree with its schema: what an editor sees behind a key."""
    if "$ref" in schema:
        yield from leaves(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions, path)
        return
    for branch in schema.get("anyOf", ()):
        if "$ref" in branch:
            yield from leaves(branch, definitions, path)
    for key, child in [*schema.get("properties", {}).items(), *schema.get("patternProperties", {}).items()]:
        yield from leaves(child, definitions, (*path, key))
    names = schema.get("additionalProperties") or {}
    if names:
        yield from leaves(names, definitions, (*path, "[]"))
    if "items" in schema:
        yield from leaves(schema["items"], definitions, (*path, "[]"))
    is_section = any("$ref" in branch for branch in schema.get("anyOf", ())) and "cost" not in path
    if not is_section and not names and not {"properties", "patternProperties", "items"} & set(schema):
        yield path, schema


def all_leaves():
    schema = editor_schema()
    return list(leaves(schema, schema["$defs"]))


def test_the_schema_names_its_dialect_and_is_json():
    assert editor_schema()["$schema"] == DIALECT
    assert json.loads(editor_schema_text()) == editor_schema()


def test_the_schema_lets_a_reference_stand_for_every_value():
    assert len(all_leaves()) > 60
    for path, schema in all_leaves():
        branches = schema.get("anyOf", [schema])
        takes = [b for b in branches if b.get("type") == "string" and "enum" not in b]
        assert any(re.search(b.get("pattern", ""), "${PORT:-8080}") for b in takes), path


def test_the_schema_still_refuses_a_word_for_a_number():
    port = editor_schema()["$defs"]["ServerSection"]["properties"]["port"]
    assert port["default"] == 8080
    assert [branch["type"] for branch in port["anyOf"]] == ["integer", "string"]
    assert not re.search(port["anyOf"][1]["pattern"], "many")


def test_every_section_is_closed_and_every_key_is_described():
    schema = plain_schema()
    for name, section in schema["$defs"].items():
        assert section["additionalProperties"] is False, name
        assert section["description"], name
        for key, child in section["properties"].items():
            assert child.get("description") or "$ref" in child, f"{name}.{key} needs a docstring"
    assert schema["additionalProperties"] is False


def test_every_key_is_on_the_reference_page_in_its_section():
    page = (ROOT / "docs" / "config.md").read_text()
    sections = dict(section.split("\n", 1) for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:])
    for path, _ in all_leaves():
        *section, key = path[:-1] if path[-1] == "[]" else path
        name = ".".join("&lt;name&gt;" if step.startswith("^") else step for step in section).replace(".[]", "[]")
        assert f"| `{key}` |" in sections[name], path


def test_a_secret_default_is_shown_as_it_is_in_the_source():
    assert plain_schema()["$defs"]["DatabaseSection"]["properties"]["url"]["default"] == "sqlite:///data/gateway.db"


@pytest.mark.parametrize("section", ["upstreams", "routes", "billing"])
def test_every_required_value_has_a_stand_in_that_validates(section):
    path = {"upstreams": ("upstreams", "x"), "routes": ("routes", 0), "billing": ("billing", "packs", 0)}[section]
    stand_in = Expectations(plain_schema()).stand_in(path)
    tree = {"upstreams": {"x": stand_in}, "routes": [stand_in], "billing": {"packs": [stand_in]}}
    assert Config.model_validate({section: tree[section]})
