"""Pages by cursor: a cursor says behind which item the next page begins, so that nothing is shown twice or skipped when
items come and go meanwhile.

To callers a cursor is one opaque word. It holds no secret and no right: whose items are shown is decided each time.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field

from gateway.api.operation import Asked
from gateway.errors import Invalid

LIMIT_MAX = 100
CURSOR_MAX_CHARACTERS = 400
_DIGITS = re.compile(r"[0-9]{1,9}")
_LAST_KEY = re.compile(r"k:([A-Za-z0-9_]{3,255})")
_LAST_ENTRY = re.compile(r"e:([0-9]{1,18})")

T = TypeVar("T")


def _read_number(text: object) -> object:
    """A number as a query has it. Not what Python would also take: 1_0, ١٠, 10.0."""
    return int(text) if isinstance(text, str) and _DIGITS.fullmatch(text) else text


class Page(Asked):
    """Which page."""

    limit: Annotated[int, Field(ge=1, le=LIMIT_MAX), BeforeValidator(_read_number)] = 50
    """Items on a page."""
    cursor: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=CURSOR_MAX_CHARACTERS)] = ""
    """`next_cursor` of the page before; none for the first."""


def cut(items: Sequence[T], limit: int, cursor_of: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
    """Of `limit` + 1 items that were looked up, the page, and the cursor of the next one if there is one."""
    if len(items) <= limit:
        return items, None
    return items[:limit], cursor_of(items[limit - 1])


def key_cursor(key_id: str) -> str:
    return _pack(f"k:{key_id}")


def read_key_cursor(cursor: str) -> str:
    """The key behind which the page begins; "" for the first page. Raises Invalid."""
    return _unpack(cursor, _LAST_KEY) if cursor else ""


def entry_cursor(entry_id: int) -> str:
    return _pack(f"e:{entry_id}")


def read_entry_cursor(cursor: str) -> int | None:
    """The entry behind which the page begins; None for the first page. Raises Invalid."""
    return int(_unpack(cursor, _LAST_ENTRY)) if cursor else None


def _pack(text: str) -> str:
    return urlsafe_b64encode(text.encode("ascii")).rstrip(b"=").decode("ascii")


def _unpack(cursor: str, shape: re.Pattern[str]) -> str:
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
    except ValueError:
        text = ""
    match = shape.fullmatch(text)
    if match is None or _pack(text) != cursor:
        raise Invalid("Not a cursor.", errors={"cursor": "take `next_cursor` of the page before, or leave it out"})
    return match[1]
