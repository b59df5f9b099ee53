"""Answers in Unkey's envelope: `{meta, data}`, and errors as `{meta, error: {title, detail, status, type}}`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
ERRORS_URL = "https://unkey.com/docs/errors/"
_PROBLEM_TYPES = frozenset({PROBLEM_JSON, "application/*", "*/*"})
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    408: "Request Timeout",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

_write_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_json(value: Any) -> bytes:
    """UTF-8; half of a surrogate pair, which a caller can spell, becomes a question mark."""
    return _write_json(value).encode("utf-8", "replace")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """A response before it is written."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class Refusal(Exception):
    """An error of Unkey's: `kind` is the end of its type URL ("unkey/data/key_not_found")."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        title: str | None = None,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title or _TITLES.get(status, "Error")
        self.errors = errors
        self.headers = headers or {}

    @property
    def from_validation(self) -> bool:
        """Refused by its shape alone, before any code of the call ran."""
        return self.errors is not None

    def answer(self, request_id: str, accept: str) -> Answer:
        error: dict[str, Any] = {
            "title": self.title,
            "detail": str(self),
            "status": self.status,
            "type": ERRORS_URL + self.kind,
        }
        if self.status in (400, 408, 413):
            error["errors"] = self.errors or []
        # What fails by its shape never gets as far as the negotiation.
        content_type = PROBLEM_JSON if accepts_problems(accept) and not self.from_validation else JSON
        body = to_json({"meta": {"requestId": request_id}, "error": error})
        return Answer(self.status, body, content_type, self.headers)


def invalid_shape(location: str, message: str) -> Refusal:
    """The 400 of a request that doesn't fit its description."""
    return Refusal(
        400,
        "unkey/application/invalid_input",
        f"{location} {message}.",
        errors=[{"location": location, "message": message, "fix": "See the API reference."}],
    )


def invalid_input(detail: str) -> Refusal:
    """The 400 of a request that fits its description and yet makes no sense."""
    return Refusal(400, "unkey/application/invalid_input", detail)


def key_not_found() -> Refusal:
    return Refusal(404, "unkey/data/key_not_found", "We could not find the requested key.")


def api_not_found() -> Refusal:
    return Refusal(404, "unkey/data/api_not_found", "The specified API was not found.")


def accepts_problems(accept: str) -> bool:
    """Whether errors are to be told as application/problem+json."""
    return any(part.partition(";")[0].strip() in _PROBLEM_TYPES for part in accept.split(","))
