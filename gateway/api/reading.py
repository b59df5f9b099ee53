"""Reads what a request says: its body in bounds, JSON without ambiguity, and the models it must fit.

What two parsers could read differently is refused: duplicate members, NaN, bytes that are no UTF-8, a query parameter
that is there twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.types import Receive

from gateway.api.identity import Headers
from gateway.api.operation import Asked
from gateway.errors import BadRequest, BodyTooLarge, Invalid, Overloaded, UnsupportedMediaType

LONG_BYTES = 65_536
LONG_BODIES_MAX = 16
"""Bodies beyond LONG_BYTES that are read at the same time: they are kept whole in memory."""
DIGITS_MAX = 20
BEYOND = 10**20
"""A longer number is beyond every limit: this stands for it, and its value is not worked out."""
QUERY_FIELDS_MAX = 16
SHOWN_FIELDS_MAX = 20
SHOWN_NAME_CHARACTERS = 64

M = TypeVar("M", bound=Asked)


class CallerLeft(OSError):
    """The caller left in the middle of its body."""


class BodyReader:
    """Reads bodies whole. One for all requests of a process, to bound what they take together."""

    def __init__(self) -> None:
        self._long_count = 0

    async def read(self, headers: Headers, receive: Receive, max_bytes: int) -> bytes:
        """Raises BodyTooLarge, before anything is read where the length was told; Overloaded; CallerLeft."""
        for name, value in headers:
            if name == b"content-length" and int(value) > max_bytes:
                raise BodyTooLarge(max_bytes)
        body = bytearray()
        is_long = False
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise BodyTooLarge(max_bytes)
                if not message.get("more_body", False):
                    return bytes(body)
                if len(body) > LONG_BYTES and not is_long:
                    self._begin_long()
                    is_long = True
        finally:
            self._long_count -= is_long

    def _begin_long(self) -> None:
        if self._long_count >= LONG_BODIES_MAX:
            raise Overloaded(cause=f"{LONG_BODIES_MAX} long bodies are being read already")
        self._long_count += 1


def read_document(headers: Headers, body: bytes) -> Any:
    """The JSON object in a body; an empty one for no body. Raises BadRequest, Invalid, UnsupportedMediaType."""
    _check_type(headers, is_empty=not body)
    if not body:
        return {}
    try:
        document = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_read_int
        )
    except UnicodeDecodeError:
        raise BadRequest("The body is not UTF-8.") from None
    except RecursionError:
        raise BadRequest("The body is nested too deep.") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    if type(document) is not dict:
        raise Invalid("The body is not an object.", errors={"body": "a JSON object is wanted"})
    return document


def read_model(model: type[M], document: Mapping[str, Any]) -> M:
    """The document as the model has it. Raises Invalid, by field."""
    nulls = [name for name, value in document.items() if value is None]
    errors = {_shown(name): "leave it out instead of null" for name in nulls[:SHOWN_FIELDS_MAX]}
    try:
        read = model.model_validate({name: value for name, value in document.items() if value is not None})
        if not errors:
            return read
    except ValidationError as error:
        errors = {**_by_field(error), **errors}
    raise Invalid("See `errors`, by field.", errors=errors)


def read_query(model: type[M], query: bytes) -> M:
    """The query as the model has it. Raises BadRequest, Invalid."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(query),
            errors="strict",
            max_num_fields=QUERY_FIELDS_MAX,
        )
    except ValueError:  # UnicodeDecodeError is one
        raise BadRequest("The query can't be read.") from None
    document: dict[str, str] = {}
    for name, value in pairs:
        if name in document:
            raise Invalid("A parameter is there twice.", errors={_shown(name): "must be there once"})
        document[name] = value
    return read_model(model, document)


def _check_type(headers: Headers, *, is_empty: bool) -> None:
    types = [value for name, value in headers if name == b"content-type"]
    if any(name == b"content-encoding" for name, _ in headers):
        raise UnsupportedMediaType("Send the body as it is, without `Content-Encoding`.")
    if is_empty and not types:
        return
    if len(types) != 1:
        raise UnsupportedMediaType
    media, _, parameters = types[0].lower().partition(b";")
    charset = parameters.strip()
    if media.strip() != b"application/json" or charset not in (b"", b"charset=utf-8", b'charset="utf-8"'):
        raise UnsupportedMediaType


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise BadRequest("The body has an object with the same member twice.")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"The body is not JSON: it has {name}.")


def _read_int(digits: str) -> int:
    if len(digits) <= DIGITS_MAX:
        return int(digits)
    return -BEYOND if digits.startswith("-") else BEYOND


def _by_field(error: ValidationError) -> dict[str, str]:
    """What is wrong, by field. What was sent is not repeated: it may be a secret in the wrong place."""
    errors: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False)[:SHOWN_FIELDS_MAX]:
        name = _name(problem["loc"])
        errors.setdefault(name, _message(problem["type"], problem["msg"]))
    return errors


def _name(location: Iterable[int | str]) -> str:
    return _shown(".".join(str(step) for step in location)) or "body"


def _message(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such field"
    if kind == "missing":
        return "is needed"
    message = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return message[:1].lower() + message[1:]


def _shown(name: str) -> str:
    printable = "".join(character if character.isprintable() else "\ufffd" for character in name)
    return printable[:SHOWN_NAME_CHARACTERS]
