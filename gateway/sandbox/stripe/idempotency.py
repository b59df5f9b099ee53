"""Idempotency keys: what a POST with a key answered is what every later one with that key answers.

Nothing is kept of a call that was refused by its shape alone, or that found another with its key in progress.
"""

from __future__ import annotations

import dataclasses

from gateway.sandbox.stripe.answers import IDEMPOTENCY, Answer, Refusal

KEY_MAX = 255
KEPT_SECONDS = 24 * 3600


@dataclasses.dataclass(slots=True)
class _Kept:
    path: str
    parameters: list[tuple[str, str]]
    at: int
    request_id: str
    answer: Answer | None = None
    """None while the first call is in progress."""


class Replays:
    """The keys of the last 24 hours."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def claim(self, key: str, path: str, parameters: list[tuple[str, str]], now: int, request_id: str) -> Answer | None:
        """Begin a call with this key: None if it is the first, else what the first answered. Raises Refusal."""
        if len(key) > KEY_MAX:
            message = f"Idempotency keys can't be longer than {KEY_MAX} characters."
            raise Refusal(400, message, kind=IDEMPOTENCY, from_validation=True)
        kept = self._kept.get(key)
        if kept is None or (kept.answer is not None and kept.at + KEPT_SECONDS < now):
            self._kept[key] = _Kept(path, sorted(parameters), now, request_id)
            return None
        if kept.path != path:
            raise _other_use(key, f"for the same endpoint they were first used for ('{kept.path}' vs '{path}')")
        if kept.parameters != sorted(parameters):
            raise _other_use(key, "with the same parameters they were first used with")
        if kept.answer is None:
            raise _in_progress(key)
        headers = {**kept.answer.headers, "Idempotent-Replayed": "true", "Original-Request": kept.request_id}
        return dataclasses.replace(kept.answer, headers=headers)

    def keep(self, key: str, answer: Answer) -> None:
        """The answer of the call that claimed the key."""
        self._kept[key].answer = answer

    def forget(self, key: str) -> None:
        """The call that claimed the key did not run."""
        self._kept.pop(key, None)


def _other_use(key: str, how: str) -> Refusal:
    message = (
        f"Keys for idempotent requests can only be used {how}. "
        f"Try using a key other than '{key}' if you meant to execute a different request."
    )
    return Refusal(400, message, kind=IDEMPOTENCY, from_validation=True)


def _in_progress(key: str) -> Refusal:
    message = (
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted "
        f"twice, and the other request is still going through): {key}. Please try again later."
    )
    return Refusal(409, message, code="idempotency_key_in_use", headers={"Stripe-Should-Retry": "true"})
