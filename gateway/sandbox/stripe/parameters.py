"""What a call's parameters must look like: shapes that are put together from small ones, and refuse as Stripe does.

A shape reads the text of a parameter into its value. Parameters that a shape does not name are refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from gateway.sandbox.stripe.answers import Refusal, invalid, missing, unknown
from gateway.sandbox.stripe.currencies import CURRENCIES

Shape = Callable[[Any, str], Any]
"""Reads the parameter of that name ("line_items[0][quantity]"). Raises Refusal."""

METADATA_KEYS_MAX = 50
METADATA_KEY_MAX = 40
METADATA_VALUE_MAX = 500
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*")
_INTEGER = re.compile(r"-?[0-9]{1,18}")


def text(most: int = 5000, *, unset: bool = False) -> Shape:
    """`unset` says that an empty text is allowed and takes the value away: it reads as None."""

    def read(value: Any, name: str) -> str | None:
        if not isinstance(value, str):
            raise invalid(f"Invalid string: {value}", name)
        if value == "":
            if unset:
                return None
            raise _empty(name)
        if len(value) > most:
            message = f"Invalid string: {value[:20]}…; must be at most {most} characters"
            raise invalid(message, name, "parameter_invalid_string_length")
        return value

    return read


def url() -> Shape:
    as_text = text()

    def read(value: Any, name: str) -> Any:
        if not _URL.fullmatch(as_text(value, name)):
            raise invalid("Not a valid URL", name, "url_invalid")
        return value

    return read


def integer(least: int = -(10**18), most: int = 10**18) -> Shape:
    def read(value: Any, name: str) -> int:
        if value == "":
            raise _empty(name)
        if not isinstance(value, str) or not _INTEGER.fullmatch(value):
            raise invalid(f"Invalid integer: {value}", name, "parameter_invalid_integer")
        number = int(value)
        if number < least:
            raise invalid(f"This value must be greater than or equal to {least}.", name, "parameter_invalid_integer")
        if number > most:
            raise invalid(f"This value must be less than or equal to {most}.", name, "parameter_invalid_integer")
        return number

    return read


def flag() -> Shape:
    def read(value: Any, name: str) -> bool:
        if value not in ("true", "false"):
            raise invalid(f"Invalid boolean: {value}", name)
        return bool(value == "true")

    return read


def one_of(*words: str, unset: bool = False) -> Shape:
    def read(value: Any, name: str) -> Any:
        if value == "" and unset:
            return None
        if value not in words:
            *others, last = words
            allowed = f"{', '.join(others)}, or {last}" if others else last
            raise invalid(f"Invalid {name}: must be one of {allowed}", name)
        return value

    return read


def currency() -> Shape:
    def read(value: Any, name: str) -> Any:
        lower = value.lower() if isinstance(value, str) else ""
        if lower not in CURRENCIES:
            known = ", ".join(sorted(CURRENCIES))
            raise invalid(f"Invalid currency: {value}. Stripe currently supports these currencies: {known}", name)
        return lower

    return read


def list_of(item: Shape, most: int = 1000) -> Shape:
    """From empty brackets or from numbered ones, in the order of their numbers."""

    def read(value: Any, name: str) -> list[Any]:
        members = value
        if isinstance(value, dict) and all(key.isdecimal() for key in value):
            members = [value[key] for key in sorted(value, key=int)]
        if not isinstance(members, list):
            raise invalid("Invalid array", name)
        if len(members) > most:
            raise invalid(f"Array {name} exceeded maximum {most} allowed elements.", name)
        return [item(member, f"{name}[{number}]") for number, member in enumerate(members)]

    return read


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectShape:
    """A hash with these members and no others."""

    fields: Mapping[str, Shape]
    required: tuple[str, ...]
    unset: bool

    def __call__(self, value: Any, name: str) -> dict[str, Any] | None:
        if value == "" and self.unset:
            return None
        if not isinstance(value, dict):
            raise invalid("Invalid hash", name)
        strangers = [_member(name, key) for key in value if key not in self.fields]
        if strangers:
            raise unknown(strangers)
        for key in self.required:
            if key not in value:
                raise missing(_member(name, key))
        return {key: self.fields[key](member, _member(name, key)) for key, member in value.items()}


def object_of(fields: Mapping[str, Shape], required: tuple[str, ...] = (), *, unset: bool = False) -> ObjectShape:
    """A hash with these members and no others. The empty name is that of all parameters together."""
    return ObjectShape(fields, required, unset)


def either(first: Shape, second: Shape) -> Shape:
    """What one of two shapes reads: a time, or a range of times."""

    def read(value: Any, name: str) -> Any:
        return (first if isinstance(value, dict) else second)(value, name)

    return read


def metadata() -> Shape:
    """Keys and texts; an empty text takes the key away and reads as None, as does an empty text for the whole."""

    def read(value: Any, name: str) -> dict[str, str | None]:
        if value == "":
            return {}
        if not isinstance(value, dict):
            raise invalid("Invalid metadata: metadata must be a set of key-value pairs", name)
        if len(value) > METADATA_KEYS_MAX:
            message = f"Metadata can have up to {METADATA_KEYS_MAX} keys; you passed {len(value)}."
            raise invalid(message, name)
        return {key: _metadata_value(key, member, name) for key, member in value.items()}

    return read


def _metadata_value(key: str, value: Any, name: str) -> str | None:
    if len(key) > METADATA_KEY_MAX:
        raise invalid(f"Metadata keys must be up to {METADATA_KEY_MAX} characters; {key[:20]}… is longer.", name)
    if not isinstance(value, str):
        raise invalid("Metadata values must be strings.", f"{name}[{key}]")
    if len(value) > METADATA_VALUE_MAX:
        message = f"Metadata values can have up to {METADATA_VALUE_MAX} characters; you passed {len(value)}."
        raise invalid(message, f"{name}[{key}]")
    return value or None


def ignored() -> Shape:
    """A parameter of Stripe's that changes nothing here."""
    return lambda value, _: value


def _member(name: str, key: str) -> str:
    return f"{name}[{key}]" if name else key


def _empty(name: str) -> Refusal:
    return invalid(
        f"You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter; however "
        f"'{name}' cannot be unset. You should remove '{name}' from your request or supply a non-empty value.",
        name,
        "parameter_invalid_empty",
    )
