"""The header Idempotency-Key, as all who honour it read it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gateway.errors import BadRequest, Conflict, Invalid

HEADER = b"idempotency-key"
HEADER_NAME = "Idempotency-Key"
KEY_PATTERN = r"^[!-~]{1,255}$"
REPLAYED = (b"idempotency-replayed", b"true")
"""What an answer has that was given before."""
_KEY = re.compile(KEY_PATTERN.encode())


def read_idempotency_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The request's Idempotency-Key; None without one. Raises BadRequest, Invalid."""
    found = [value for name, value in headers if name == HEADER]
    if not found:
        return None
    if len(found) > 1:
        raise BadRequest("Idempotency-Key is there twice.")
    if not _KEY.fullmatch(found[0]):
        raise Invalid("Not an Idempotency-Key.", errors={HEADER_NAME: "1 to 255 visible ASCII characters"})
    return found[0]


def used_before() -> Invalid:
    """It came with another request before."""
    errors = {HEADER_NAME: "was used before for another request"}
    return Invalid("Use a new Idempotency-Key for a new request.", errors=errors)


def still_running() -> Conflict:
    """Somebody else is at it."""
    return Conflict("A request with this Idempotency-Key is still being worked on.", headers=((b"retry-after", b"1"),))
