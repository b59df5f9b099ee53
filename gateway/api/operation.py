"""One call of the control plane, said once: the router, the checks and the OpenAPI document are all made of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from gateway.api.idempotency import Attempt
from gateway.api.identity import Headers, Identity, Kind
from gateway.errors import GatewayError

BODY_MAX_BYTES = 2_097_152
"""JSON bodies. Room for a value of a megabyte, so that its field can be named when it is refused."""


class Model(BaseModel):
    """What goes out. Its docstring and its fields' are the API's documentation."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, extra="forbid")


def _leave_out_null(schema: dict[str, Any]) -> None:
    for field_schema in schema.get("properties", {}).values():
        branches = [branch for branch in field_schema.pop("anyOf", ()) if branch != {"type": "null"}]
        for branch in branches:
            field_schema.update(branch)
        if field_schema.get("default", ...) is None:
            del field_schema["default"]


class Asked(Model):
    """What comes in: closed, and strict, so that "10" is no number and `true` no 1. What is not said is left out:
    `null` is refused (reading.py)."""

    model_config = ConfigDict(strict=True, json_schema_extra=_leave_out_null)


class Nothing(Asked):
    """An empty object, or no body at all."""


@dataclass(frozen=True, slots=True)
class Document:
    """An answer that is not JSON of a model."""

    content_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


Result = BaseModel | Document | None
B = TypeVar("B")
Q = TypeVar("Q")


@dataclass(frozen=True, slots=True)
class Request(Generic[B, Q]):
    """A request whose credential, query and body have been checked.

    `attempt` is there if it came with an Idempotency-Key.
    """

    identity: Identity
    body: B
    query: Q
    path: Mapping[str, str]
    headers: Headers
    attempt: Attempt | None = None

    def with_attempt(self, attempt: Attempt) -> Request[B, Q]:
        return replace(self, attempt=attempt)


@dataclass(frozen=True, slots=True)
class Operation(Generic[B, Q]):
    """One method of one path.

    `who` may do it; None: anyone, unasked. `body` None: none is read; an int: raw, and so many bytes at most. `answer`
    is the model of the result, or a media type. `changes`: once begun it is finished, whoever leaves.
    `takes_idempotency_key`: a repeat with the same key gets the first answer. `problems` are what it raises beside the
    checks.
    """

    name: str
    method: str
    path: str
    summary: str
    description: str
    handle: Callable[[Request[B, Q]], Awaitable[Result]]
    who: frozenset[Kind] | None
    answer: type[Model] | str | None
    status: int = 200
    body: type[Asked] | int | None = None
    query: type[Asked] | None = None
    changes: bool = False
    takes_idempotency_key: bool = False
    problems: tuple[type[GatewayError], ...] = ()
    path_fields: Mapping[str, str] = field(default_factory=dict)
    header_fields: Mapping[str, str] = field(default_factory=dict)


AnyOperation = Operation[Any, Any]
EVERYBODY = frozenset(Kind)
"""Whoever says who they are."""
OWNERS = frozenset({Kind.USER, Kind.ADMIN})
ADMIN = frozenset({Kind.ADMIN})
