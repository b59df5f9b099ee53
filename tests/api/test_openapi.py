"""The description: valid, complete, current, and made of what is checked."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from gateway.api.build import described, openapi_document
from gateway.api.description import Description
from gateway.api.openapi import describe, problems_of
from gateway.config.route_path import _OWN_PATHS
from gateway.config.tree import Config
from gateway.errors_reference import EXPLANATIONS
from tests.docs.pages import ROOT

DESCRIBED = described(Config(), None, None)
OPERATIONS = [*DESCRIBED, *Description(DESCRIBED).operations()]
DOCUMENT = describe(OPERATIONS)
CALLS = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}


def test_every_call_of_the_control_plane_is_described():
    assert {
        ("POST", "/api-keys"),
        ("GET", "/api-keys"),
        ("PATCH", "/api-keys/{key_id}"),
        ("DELETE", "/api-keys/{key_id}"),
        ("POST", "/api-keys/{key_id}/rotate"),
        ("GET", "/credits"),
        ("GET", "/credits/transactions"),
        ("POST", "/credits/adjustments"),
        ("GET", "/pricing"),
        ("POST", "/checkout"),
        ("GET", "/orders/{order_id}"),
        ("POST", "/stripe-webhook"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    } == CALLS


def test_a_route_of_the_config_can_not_hide_any_of_them():
    shapes = {tuple(re.sub(r"\{\w+\}", "{}", path)[1:].split("/")) for _, path in CALLS}
    assert shapes <= set(_OWN_PATHS)


def test_the_document_in_the_repository_is_current():
    assert (ROOT / "docs" / "openapi.json").read_text() == openapi_document(), "run: make docs"


def references(part):
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def test_every_reference_leads_somewhere():
    assert DOCUMENT["openapi"].startswith("3.1")
    for reference in references(DOCUMENT):
        found = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_every_schema_is_a_schema_and_every_field_says_what_it_is():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["description"], name
        for field, inner in schema.get("properties", {}).items():
            assert inner.get("description"), f"{name}.{field}"


def test_operation_ids_are_unique_and_everything_has_a_summary():
    ids = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] for methods in DOCUMENT["paths"].values() for operation in methods.values())


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_problem_has_an_example_that_its_schema_takes(operation):
    responses = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
    schema = DOCUMENT["components"]["schemas"]["Problem"]
    for kind in problems_of(operation):
        content = responses[str(kind.status)]["content"]["application/problem+json"]
        reference = content["examples"][kind.slug]["$ref"].rpartition("/")
        assert reference[0] == "#/components/examples"
        jsonschema.validate(DOCUMENT["components"]["examples"][reference[2]]["value"], schema)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_who_must_say_who_they_are_is_told_what_happens_if_not(operation):
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]
    statuses = set(described["responses"])
    if operation.who is not None:
        assert {"401", "403", "429", "503"} <= statuses
        assert described["security"]
    else:
        assert described["security"] == []
    if "{" in operation.path:
        assert "404" in statuses
    if operation.body is not None:
        assert "413" in statuses
    if isinstance(operation.body, type):
        assert {"415", "422"} <= statuses
    if operation.takes_idempotency_key:
        assert {"409", "422"} <= statuses


def test_all_that_makes_or_moves_something_takes_an_idempotency_key():
    posts = {operation.path for operation in OPERATIONS if operation.method == "POST"}
    takers = {operation.path for operation in OPERATIONS if operation.takes_idempotency_key}
    assert posts - takers == {"/stripe-webhook"}


def test_all_that_changes_something_is_finished_once_begun():
    assert all(operation.changes == (operation.method != "GET") for operation in OPERATIONS)


def test_every_slug_it_speaks_of_is_explained():
    explained = {type(explanation.example) for explanation in EXPLANATIONS}
    assert {kind for operation in OPERATIONS for kind in problems_of(operation)} <= explained


def test_it_is_served_as_it_is_in_the_repository(with_api):
    async def test(api):
        answer = await api.call("GET /openapi.json")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json == json.loads((ROOT / "docs" / "openapi.json").read_text())

    with_api(test)
