"""JSON as a party of ours must speak it: UTF-8, no name twice, no NaN, nothing behind it, and of sane depth."""

from __future__ import annotations

import json
from typing import Any

from gateway.credits.unkey.nonsense import Nonsense

INTEGER_MAX = 2**63 - 1
WHITE_SPACE = " \t\r\n"


def parse_object(body: bytes) -> dict[str, Any]:
    """The object that `body` is. Raises Nonsense."""
    try:
        text = body.decode("utf-8").strip(WHITE_SPACE)
        document, end = _DECODER.raw_decode(text)  # `decode` would look for white space by regex
    except Nonsense:
        raise
    except (ValueError, RecursionError) as error:
        # Not its text: that may quote the document.
        raise Nonsense(f"not JSON ({type(error).__name__})") from None
    if type(document) is not dict or end != len(text):
        raise Nonsense("not an object, or something behind it")
    return document


def read_text(members: dict[str, Any], name: str, length_max: int = 255) -> str:
    """A name or an id: visible ASCII, "" where it is absent or null. Raises Nonsense."""
    value = members.get(name)
    if value is None:
        return ""
    if type(value) is not str or len(value) > length_max or not value.isascii() or not value.isprintable():
        raise Nonsense(f"{name} is not a short text")
    return value


def read_id(members: dict[str, Any], name: str, length_max: int = 255) -> str:
    """As read_text, but it must be there and have no space."""
    value = read_text(members, name, length_max)
    if not value or " " in value:
        raise Nonsense(f"{name} is missing or no id")
    return value


def read_count(members: dict[str, Any], name: str) -> int | None:
    """A whole number from 0, None where it is absent or null. Raises Nonsense."""
    value = members.get(name)
    if value is not None and (type(value) is not int or not 0 <= value <= INTEGER_MAX):
        raise Nonsense(f"{name} is not a whole number from 0")
    return value


def read_flag(members: dict[str, Any], name: str) -> bool:
    """true or false, and nothing else. Raises Nonsense."""
    value = members.get(name)
    if type(value) is not bool:
        raise Nonsense(f"{name} is not true or false")
    return value


def read_object(members: dict[str, Any], name: str) -> dict[str, Any]:
    """An object, empty where it is absent or null. Raises Nonsense."""
    value = members.get(name)
    if value is None:
        return {}
    if type(value) is not dict:
        raise Nonsense(f"{name} is not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Nonsense("a name stands twice in one object")
    return members


def _constant(_: str) -> Any:
    raise Nonsense("NaN or Infinity")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
