"""What a JSON value must look like: checks that are put together from small ones, closed unless they say otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Field = Callable[[Any, str], None]
"""Checks the value at a location ("body.credits"). Raises InvalidField."""

INT64_MAX = (1 << 63) - 1


class InvalidField(Exception):
    """A value that the description of the call doesn't allow."""

    def __init__(self, location: str, message: str) -> None:
        super().__init__(f"{location}: {message}")
        self.location = location
        self.message = message


def text(least: int = 0, most: int | None = None, pattern: str | None = None, *, nullable: bool = False) -> Field:
    shape = re.compile(pattern) if pattern else None

    def check(value: Any, location: str) -> None:
        if value is None and nullable:
            return
        if not isinstance(value, str):
            raise InvalidField(location, "must be a string")
        if len(value) < least:
            raise InvalidField(location, f"must have at least {least} characters")
        if most is not None and len(value) > most:
            raise InvalidField(location, f"must have at most {most} characters")
        if shape is not None and not shape.fullmatch(value):
            raise InvalidField(location, f"must match {shape.pattern}")

    return check


def whole(least: int, most: int = INT64_MAX, *, nullable: bool = False) -> Field:
    def check(value: Any, location: str) -> None:
        if value is None and nullable:
            return
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidField(location, "must be an integer")
        if not least <= value <= most:
            raise InvalidField(location, f"must be from {least} to {most}")

    return check


def number(least: float, most: float) -> Field:
    def check(value: Any, location: str) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise InvalidField(location, "must be a number")
        if not least <= value <= most:
            raise InvalidField(location, f"must be from {least} to {most}")

    return check


def flag() -> Field:
    def check(value: Any, location: str) -> None:
        if not isinstance(value, bool):
            raise InvalidField(location, "must be true or false")

    return check


def one_of(*words: str) -> Field:
    def check(value: Any, location: str) -> None:
        if value not in words:
            raise InvalidField(location, f"must be one of {', '.join(words)}")

    return check


def list_of(item: Field, most: int | None = None) -> Field:
    def check(value: Any, location: str) -> None:
        if not isinstance(value, list):
            raise InvalidField(location, "must be a list")
        if most is not None and len(value) > most:
            raise InvalidField(location, f"must have at most {most} items")
        for number_, member in enumerate(value):
            item(member, f"{location}[{number_}]")

    return check


def object_of(
    fields: Mapping[str, Field], required: tuple[str, ...] = (), *, open_: bool = False, nullable: bool = False
) -> Field:
    """An object with these members and, unless `open_`, no others."""

    def check(value: Any, location: str) -> None:
        if value is None and nullable:
            return
        if not isinstance(value, dict):
            raise InvalidField(location, "must be an object")
        for name in required:
            if name not in value:
                raise InvalidField(f"{location}.{name}", "is required")
        for name, member in value.items():
            field = fields.get(name)
            if field is not None:
                field(member, f"{location}.{name}")
            elif not open_:
                raise InvalidField(f"{location}.{name}", "is not a known member")

    return check


def any_object(most: int, *, nullable: bool = False) -> Field:
    """An object with any members, so many at most."""

    def check(value: Any, location: str) -> None:
        if value is None and nullable:
            return
        if not isinstance(value, dict):
            raise InvalidField(location, "must be an object")
        if len(value) > most:
            raise InvalidField(location, f"must have at most {most} members")

    return check
