"""The OpenAPI 3.1 document, made of the operations and their models: what is checked is what is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gateway import __version__
from gateway.api.identity import Kind
from gateway.api.operation import AnyOperation
from gateway.errors import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    CreditsUnavailable,
    Forbidden,
    GatewayError,
    IdentityUnavailable,
    InternalError,
    Invalid,
    InvalidKey,
    KeyDisabled,
    KeyExpired,
    MissingKey,
    Overloaded,
    RateLimited,
    RequestTimeout,
    UnsupportedMediaType,
)
from gateway.errors_reference import EXPLANATIONS, MEMBERS
from gateway.idempotency_key import HEADER_NAME, KEY_PATTERN

Json = dict[str, Any]
Side = tuple[type[BaseModel], JsonSchemaMode]
"""A model as it is taken, or as it is answered."""
Problems = tuple[type[GatewayError], ...]

ALWAYS: Problems = (BadRequest, InternalError, Overloaded)
"""What any request may be answered with."""
IDENTIFIED: Problems = (
    *(MissingKey, InvalidKey, KeyDisabled, KeyExpired, Forbidden, RateLimited),
    *(CreditsUnavailable, IdentityUnavailable),
)
WITH_BODY: Problems = (RequestTimeout, BodyTooLarge)
WITH_JSON: Problems = (Invalid, UnsupportedMediaType)
ONCE: Problems = (Conflict, Invalid)

EXAMPLES = {type(explanation.example): explanation for explanation in EXPLANATIONS}
EXAMPLE_ID = "req_3b59fb850c3d2ce40000000003"
TAGS = {
    "api-keys": "API keys",
    "credits": "Credits",
    "pricing": "Buying credits",
    "checkout": "Buying credits",
    "orders": "Buying credits",
    "stripe-webhook": "Buying credits",
}
OTHER_TAG = "About the gateway"
BEARER = {"type": "http", "scheme": "bearer"}
SCHEMES: dict[str, Json] = {
    "apiKey": {**BEARER, "description": "An API key, which is its own identity."},
    "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
    "appToken": {
        **BEARER,
        "bearerFormat": "JWT",
        "description": "A token that the app signed for one of its users; `sub` is the user id.",
    },
    "adminToken": {**BEARER, "description": "`identity.admin_token` of the config: the app's back end, and ops."},
}
SCHEMES_OF = {Kind.KEY: ("apiKey", "apiKeyHeader"), Kind.USER: ("appToken",), Kind.ADMIN: ("adminToken",)}
ID_FIELD = {"description": "The request's name in the log.", "schema": {"type": "string"}}
TEXT_ANSWERS = {"text/html; charset=utf-8": {"type": "string"}, "application/json": {"type": "object"}}

ABOUT = """\
An HTTP gateway that sells API calls. This is its control plane: API keys, credits and their purchase. The calls that \
are sold are the routes of its config (`GET /pricing`).

JSON in and out. Numbers of credits are whole; times are Unix milliseconds. What is not said is left out, not `null`; \
fields that are not listed are refused. Errors are `application/problem+json` (RFC 9457): `type` is stable, `instance` \
is the `X-Request-Id`.\
"""
HEALTH: Json = {"type": "object", "properties": {"status": {"const": "ok"}}, "required": ["status"]}
READINESS: Json = {
    "type": "object",
    "properties": {
        "ready": {"type": "boolean", "description": "Whether calls are taken."},
        "checks": {"type": "object", "description": "By name: `ok`, and the `reason` where it is not."},
    },
    "required": ["ready", "checks"],
}


def describe(operations: Sequence[AnyOperation]) -> Json:
    """The document."""
    schemas = _Schemas(operations)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    paths["/healthz"] = {"get": _health("getHealth", "Whether the process lives", {"200": HEALTH})}
    paths["/readyz"] = {"get": _health("getReadiness", "Whether it takes calls", {"200": READINESS, "503": READINESS})}
    return {
        "openapi": "3.1.0",
        "info": {"title": "credit-gateway", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys([*TAGS.values(), OTHER_TAG])],
        "paths": paths,
        "components": {
            "schemas": {**schemas.definitions, "Problem": _problem_schema()},
            "examples": dict(_examples(operations)),
            "securitySchemes": SCHEMES,
        },
    }


class _Schemas:
    """The JSON Schemas of all models."""

    def __init__(self, operations: Sequence[AnyOperation]) -> None:
        self._references, self.definitions = _schemas_of(tuple(dict.fromkeys(_models(operations))))

    def reference(self, model: type[BaseModel], mode: JsonSchemaMode) -> Json:
        return self._references[model, mode]

    def resolve(self, model: type[BaseModel]) -> Json:
        return self.definitions[self.reference(model, "validation")["$ref"].rpartition("/")[2]]


@cache
def _schemas_of(models: tuple[Side, ...]) -> tuple[Mapping[Any, Json], dict[str, Json]]:
    """References to them, and what they refer to, to be read only: always the same, and most of the document's time."""
    references, whole = models_json_schema(models, ref_template="#/components/schemas/{model}")
    definitions: dict[str, Json] = whole.get("$defs", {})
    for schema in definitions.values():
        for part in (schema, *schema.get("properties", {}).values()):
            part.pop("title", None)
            part["description"] = " ".join(part["description"].split())
    return references, definitions


def _models(operations: Sequence[AnyOperation]) -> Iterator[Side]:
    for operation in operations:
        if isinstance(operation.body, type):
            yield operation.body, "validation"
        if operation.query is not None:
            yield operation.query, "validation"
        if isinstance(operation.answer, type):
            yield operation.answer, "serialization"


def _operation(operation: AnyOperation, schemas: _Schemas) -> Json:
    described: Json = {
        "operationId": operation.name,
        "tags": [TAGS.get(operation.path.split("/")[1], OTHER_TAG)],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": list(_parameters(operation, schemas)),
        "responses": _responses(operation, schemas),
        "security": _security(operation),
    }
    if isinstance(operation.body, int):
        raw = {"schema": {"description": "Taken byte for byte: the signature is over it."}}
        described["requestBody"] = {"required": True, "content": {"application/json": raw}}
    elif operation.body is not None:
        schema = schemas.reference(operation.body, "validation")
        is_needed = bool(schemas.resolve(operation.body).get("required"))
        described["requestBody"] = {"required": is_needed, "content": {"application/json": {"schema": schema}}}
    return {name: value for name, value in described.items() if value or name == "security"}


def _security(operation: AnyOperation) -> list[Json]:
    if operation.who is None:
        return []
    return [{scheme: []} for kind in Kind if kind in operation.who for scheme in SCHEMES_OF[kind]]


def _parameters(operation: AnyOperation, schemas: _Schemas) -> Iterator[Json]:
    for name, description in operation.path_fields.items():
        schema = {"type": "string", "pattern": "^[A-Za-z0-9_]+$", "minLength": 1, "maxLength": 255}
        yield {"name": name, "in": "path", "required": True, "description": description, "schema": schema}
    if operation.query is not None:
        for name, field in schemas.resolve(operation.query)["properties"].items():
            schema = {key: value for key, value in field.items() if key not in ("title", "description")}
            yield {"name": name, "in": "query", "description": field["description"], "schema": schema}
    for name, description in operation.header_fields.items():
        yield {"name": name, "in": "header", "required": True, "description": description, "schema": {"type": "string"}}
    if operation.takes_idempotency_key:
        yield {
            "name": HEADER_NAME,
            "in": "header",
            "description": "A word of the caller's own for this request, such as a UUID. The same request with the same"
            " word is done once, and answered alike for 24 hours.",
            "schema": {"type": "string", "pattern": KEY_PATTERN},
        }


def _responses(operation: AnyOperation, schemas: _Schemas) -> Json:
    success: Json = {"description": "Done.", "headers": {"X-Request-Id": ID_FIELD}}
    if isinstance(operation.answer, type):
        schema = schemas.reference(operation.answer, "serialization")
        success["content"] = {"application/json": {"schema": schema}}
        success["description"] = schemas.definitions[schema["$ref"].rpartition("/")[2]]["description"]
    elif operation.answer is not None:
        success["content"] = {operation.answer: {"schema": TEXT_ANSWERS[operation.answer]}}
    if operation.takes_idempotency_key:
        replayed = {"description": "`true`: this is the first answer again.", "schema": {"const": "true"}}
        success["headers"] = {**success["headers"], "Idempotency-Replayed": replayed}
    by_status: dict[int, list[type[GatewayError]]] = {}
    for problem in problems_of(operation):
        by_status.setdefault(problem.status, []).append(problem)
    problems = {str(status): _problem_response(kinds) for status, kinds in sorted(by_status.items())}
    return {str(operation.status): success, **problems}


def problems_of(operation: AnyOperation) -> Problems:
    """Every problem that the operation may be answered with."""
    found = [*ALWAYS, *operation.problems]
    if operation.who is not None:
        found += IDENTIFIED
    if operation.query is not None:
        found += (Invalid,)
    if operation.body is not None:
        found += WITH_BODY
    if isinstance(operation.body, type):
        found += WITH_JSON
    if operation.takes_idempotency_key:
        found += ONCE
    return tuple(dict.fromkeys(found))


def _examples(operations: Sequence[AnyOperation]) -> Iterator[tuple[str, Json]]:
    for kind in dict.fromkeys(kind for operation in operations for kind in problems_of(operation)):
        explanation = EXAMPLES[kind]
        yield kind.slug, {"summary": explanation.when, "value": explanation.example.problem(EXAMPLE_ID)}


def _problem_response(kinds: Sequence[type[GatewayError]]) -> Json:
    headers = {"X-Request-Id": ID_FIELD}
    for name in {name for kind in kinds for name, _ in EXAMPLES[kind].example.headers}:
        headers[name.decode("ascii").title()] = {"schema": {"type": "string"}}
    examples = {kind.slug: {"$ref": f"#/components/examples/{kind.slug}"} for kind in kinds}
    return {
        "description": ". ".join(f"`{kind.slug}`: {kind.title}" for kind in kinds) + ".",
        "headers": dict(sorted(headers.items())),
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
        },
    }


def _problem_schema() -> Json:
    text = {"type": "string"}
    numbers = (
        *("available", "held", "cost", "shortfall", "limit", "spent", "resets_at"),
        *("remaining", "reset", "limit_bytes"),
    )
    members: Json = {name: {"type": "integer", "description": MEMBERS[name]} for name in numbers}
    members["cap"] = {"enum": ["day", "month"], "description": MEMBERS["cap"]}
    members["errors"] = {
        "type": "object",
        "description": MEMBERS["errors"],
        "additionalProperties": text,
    }
    return {
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status", "source"],
        "properties": {
            "type": {**text, "description": "Which problem: stable, explained in docs/errors.md."},
            "title": {**text, "description": "The problem in a few words. May change."},
            "status": {"type": "integer", "description": "The HTTP status."},
            "detail": {**text, "description": "What is wrong with this request, and what to do. May change."},
            "instance": {**text, "description": "The request id."},
            "source": {"const": "gateway", "description": "An upstream's own problems don't have it."},
            **members,
        },
    }


def _health(name: str, summary: str, answers: dict[str, Json]) -> Json:
    words = {"200": "Yes.", "503": "No: the reasons are in it."}
    responses = {
        status: {"description": words[status], "content": {"application/json": {"schema": schema}}}
        for status, schema in answers.items()
    }
    return {"operationId": name, "tags": [OTHER_TAG], "summary": summary, "responses": responses, "security": []}
