"""A short cut for the commonest verdict: one that differs from an earlier one in the request's id and the credits left.

Nearly all that Unkey says of a good key stays the same from call to call. What is the same byte for byte was read
strictly once (verdict.py), and means the same again. The id may be exchanged, as it is a text of plain characters
between the same two quotes; the credits, as they are a whole number in the same place.
"""

from __future__ import annotations

from typing import Final

from gateway.credits.unkey.strict_json import INTEGER_MAX
from gateway.credits.unkey.verdict import Verdict, read_verdict

ID_BYTES: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"
"""None that could end a text, or stand between two of them."""
KNOWN_MAX: Final = 10_000
BODY_MAX_BYTES: Final = 2_048
META: Final = b'{"meta":{"requestId":"'
CREDITS: Final = b'"credits":'
DIGITS_MAX: Final = len(str(INTEGER_MAX)) - 1

Frame = tuple[bytes, bytes, bytes]
"""What stands before the id, between it and the credits, and behind them."""


class KnownVerdicts:
    """Reads the bodies of verdicts."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Frame, Verdict] = {}

    def read(self, body: bytes) -> Verdict:
        """See read_verdict."""
        at = body.find(CREDITS) + len(CREDITS)
        data = body.rfind(b'"data"', 0, at)
        id_end = body.rfind(b'"', 0, data)
        id_at = body.rfind(b'"', 0, id_end) + 1
        behind = body.find(b",", at)
        # In this order, or a slice of it would be reversed: b"" in Python, but compiled (mypyc 2.4) a SystemError.
        if not 0 < id_at <= id_end < data < at <= behind:
            return read_verdict(body)
        digits = body[at:behind].strip(b" ")
        if (
            body[id_at:id_end].translate(None, ID_BYTES)
            or not digits.isdigit()
            or len(digits) > DIGITS_MAX
            or (digits[:1] == b"0" and len(digits) > 1)
        ):
            return read_verdict(body)
        frame = (body[:id_at], body[id_end:at], body[behind:])
        known = self._known.get(frame)
        if known is None:
            return self._learn(frame, body)
        return Verdict(known.code, known.key_id, int(digits), known.user_id, enabled=known.enabled)

    def _learn(self, frame: Frame, body: bytes) -> Verdict:
        verdict = read_verdict(body)
        if verdict.credits is not None and verdict.rate_limit is None and _is_plain(frame, body):
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[frame] = verdict
        return verdict


def _is_plain(frame: Frame, body: bytes) -> bool:
    """Whether the id is surely the request's, and the number surely the key's credits."""
    return (
        len(body) <= BODY_MAX_BYTES
        and frame[0].replace(b" ", b"") == META
        and body.count(b'"credits"') == 1
        and b"\\" not in body  # which could spell either in another way
    )
