"""The one place that takes secrets out of text on its way to a log.

Two nets: the exact values that the configuration holds (they have no shape to go by), and the shapes of secrets
that come from outside. What is taken out becomes `[redacted]`; a word too many is a smaller harm than a key too few.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REDACTED = "[redacted]"

_EXACT_LENGTH_MIN = 6
"""Shorter configured values would blank out ordinary words."""

_NAMES = r"(?:password|passwd|secret|(?:api|root|secret)[_-]?key|token|authorization|cookie|dsn)"

_SECRET_NAME = re.compile(_NAMES + r"\Z", re.IGNORECASE)

_SHAPES = (
    # Bounded, so that hostile text can't make the search quadratic. The password may itself have an `@`.
    r"(?P<dsn>://[^\s/:@]{0,64}:)\S{1,256}@",
    r"(?P<bearer>\bbearer['\"]?\s+)[a-z0-9._~+/=-]+",
    # `authorization: Basic …`, `api_key=…`, `"password": "…"`, `(b'x-api-key', b'…')`
    (
        rf"(?P<name>(?:{_NAMES})['\"]?\s{{0,4}}[:=,]\s{{0,4}})"
        r"(?:b?\"[^\"]{0,1024}\"|b?'[^']{0,1024}'|(?:b?['\"])?(?:(?:basic|bearer|digest)\s+)?[^\s'\",;&)}\]]+)"
    ),
    r"(?P<prefix>(?:[sr]k_(?:live|test)|whsec|unkey)_)[a-z0-9+/=_-]+",
    r"(?<![a-z0-9_-])eyJ[a-z0-9_-]{8,}\.[a-z0-9_-]+\.[a-z0-9_-]*",
)


class Redaction:
    """Takes secrets out of strings. `key_prefixes` begin our own API keys; `secrets` are values to hide wherever
    they stand."""

    def __init__(self, key_prefixes: Iterable[str] = ("gw_",), secrets: Iterable[str] = ()) -> None:
        # The longest first: an alternation takes the first that fits.
        exact = sorted({secret for secret in secrets if len(secret) >= _EXACT_LENGTH_MIN}, key=len, reverse=True)
        self._exact = re.compile("|".join(map(re.escape, exact))) if exact else None
        prefixes = "|".join(map(re.escape, key_prefixes))
        ours = [rf"(?P<ours>(?:{prefixes}))[a-z0-9_]{{6,}}"] if prefixes else []
        self._shapes = re.compile("|".join([*ours, *_SHAPES]), re.IGNORECASE)

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._exact is not None:
            text = self._exact.sub(REDACTED, text)
        return self._shapes.sub(_keep_the_lead, text)

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields fit for a log: numbers, booleans and None as they are, all else as text without secrets."""
        clean: dict[str, Any] = {}
        for name, value in fields.items():
            if _SECRET_NAME.search(name):
                shown: Any = REDACTED
            elif value is None or isinstance(value, (bool, int, float)):
                shown = value
            else:
                shown = self.text(str(value))
            clean[self.text(name)] = shown
        return clean


def _keep_the_lead(match: re.Match[str]) -> str:
    lead = match[match.lastgroup] if match.lastgroup else ""
    return f"{lead}{REDACTED}@" if match.lastgroup == "dsn" else f"{lead}{REDACTED}"
