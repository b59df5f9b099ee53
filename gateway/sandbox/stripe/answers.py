"""Answers as Stripe writes them: indented JSON, and errors as `{"error": {type, code, message, param, doc_url}}`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

INVALID = "invalid_request_error"
API_ERROR = "api_error"
CARD_ERROR = "card_error"
IDEMPOTENCY = "idempotency_error"
DOCUMENTATION_URL = "https://stripe.com/docs/error-codes/"


def to_json(value: Any) -> bytes:
    """UTF-8; half of a surrogate pair becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, indent=2).encode("utf-8", "replace")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A response before it is written."""

    status: int
    body: bytes
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class Refusal(Exception):
    """An error of Stripe's. `from_validation` says that the call was refused by its shape alone, before it ran."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        from_validation: bool = False,
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.from_validation = from_validation
        self.headers = headers or {}
        self._error = {"code": code, "message": message, "param": param, **members, "type": kind}
        if code is not None:
            self._error["doc_url"] = DOCUMENTATION_URL + code.replace("_", "-")

    def answer(self) -> Answer:
        error = {name: value for name, value in sorted(self._error.items()) if value is not None}
        return Answer(self.status, to_json({"error": error}), self.headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """The 400 of a parameter with a wrong value or shape."""
    return Refusal(400, message, code=code, param=param, from_validation=True)


def missing(param: str) -> Refusal:
    return invalid(f"Missing required param: {param}.", param, "parameter_missing")


def unknown(params: list[str]) -> Refusal:
    plural = "s" if len(params) > 1 else ""
    return invalid(f"Received unknown parameter{plural}: {', '.join(params)}", params[0], "parameter_unknown")


def not_now(message: str, code: str | None = None, param: str | None = None) -> Refusal:
    """The 400 of a call that makes sense, but not in the state that things are in."""
    return Refusal(400, message, code=code, param=param)


def no_such(kind: str, identifier: str, param: str = "id") -> Refusal:
    """404 for an id in the path, 400 for one in a parameter."""
    status = 404 if param == "id" else 400
    return Refusal(status, f"No such {kind}: '{identifier}'", code="resource_missing", param=param)
