"""The one place that takes secrets out of text on its way to a log.

Two nets: the exact values that the configuration holds (they have no shape to go by), and the shapes of secrets
that come from outside. What is taken out becomes `[redacted]`; a word too many is a smaller harm than a key too few.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

REDACTED = "[redacted]"
_KEEP_LEAD = rf"\g<lead>{REDACTED}"

PATH_MAX_BYTES = 1_024
"""As much of a path is shown: callers choose its length, and looking for secrets in it takes time on the loop."""

_EXACT_LENGTH_MIN = 6
"""Shorter configured values would blank out ordinary words."""

_NAMES = (
    r"(?:[pP](?i:ass(?:word|wd))|[sS](?i:ecret(?:[_-]?key)?)|[aA](?i:pi[_-]?key|uthorization)|[rR](?i:oot[_-]?key)"
    r"|[tT](?i:oken)|[cC](?i:ookie)|[dD](?i:sn))"
)
"""What a secret is called. The case of first letters is spelled out: that makes the search twice as quick."""

_SECRET_NAME = re.compile(_NAMES + r"\Z")

# Callers write what is searched here, so each search is linear: one that begins anywhere in a run of characters would
# look through the rest of the run from every place in it. These begin once a run, and go back to no choice `(?>…)`.
_DSN = re.compile(r"(?<!\S)(?P<lead>(?>\S*?://[^\s/:@]*+:))\S+@")
"""To the last `@`: the password may itself have one."""
_JWT = re.compile(
    r"(?<![a-z0-9_-])(?P<lead>(?>[a-z0-9_-]*?(?=eyJ)))[a-z0-9_-]{11,}+\.[a-z0-9_-]++\.[a-z0-9_-]*", re.IGNORECASE
)
_BEARER = re.compile(r"(?P<lead>\bbearer['\"]?\s++)[a-z0-9._~+/=-]+", re.IGNORECASE)
_NAMED = re.compile(
    # `authorization: Basic …`, `api_key=…`, `"password": "…"`, `(b'x-api-key', b'…')`
    rf"(?P<lead>{_NAMES}['\"]?\s{{0,4}}[:=,]\s{{0,4}})"
    r"(?:b?\"[^\"]{0,1024}\"|b?'[^']{0,1024}'"
    r"|(?:b?['\"])?(?:(?i:basic|bearer|digest)\s+)?[^\s'\",;&)}\]]+(?:(?<=\[redacted)\][^\s'\",;&)}\]]*)*)"
)
_FOREIGN = re.compile(r"(?P<lead>(?:[sSrR](?i:k_(?:live|test))|[wW](?i:hsec)|[uU](?i:nkey))_)[a-zA-Z0-9+/=_-]+")


class Redaction:
    """Takes secrets out of strings. `key_prefixes` begin our own API keys; `secrets` are values to hide wherever
    they stand."""

    def __init__(self, key_prefixes: Iterable[str] = ("gw_",), secrets: Iterable[str] = ()) -> None:
        # The longest first: one may contain another.
        self._exact = sorted({secret for secret in secrets if len(secret) >= _EXACT_LENGTH_MIN}, key=len, reverse=True)
        self._ours = [
            (prefix.lower(), re.compile(rf"(?P<lead>{re.escape(prefix)})[a-z0-9_]{{6,}}", re.IGNORECASE))
            for prefix in key_prefixes
        ]

    def text(self, text: str) -> str:
        """The text without secrets. Linear in its length, whatever it is; quick where nothing looks like a secret."""
        for secret in self._exact:
            if secret in text:
                text = text.replace(secret, REDACTED)
        if "://" in text and "@" in text:
            text = _DSN.sub(rf"\g<lead>{REDACTED}@", text)
        lower = text.lower()
        if ":" in text or "=" in text or "," in text:
            text = _NAMED.sub(_KEEP_LEAD, text)
        if "bearer" in lower:
            text = _BEARER.sub(_KEEP_LEAD, text)
        for prefix, ours in self._ours:
            if prefix in lower:
                text = ours.sub(_KEEP_LEAD, text)
        if "_" in text:
            text = _FOREIGN.sub(_KEEP_LEAD, text)
        if "eyj" in lower:
            text = _JWT.sub(_KEEP_LEAD, text)
        return text

    def path(self, path: bytes) -> str:
        """A raw path to show: without its query, not too long, without secrets."""
        path = path.partition(b"?")[0]
        if len(path) > PATH_MAX_BYTES:
            # Between segments: half a secret may not look like one.
            path = path[: path.rfind(b"/", 0, PATH_MAX_BYTES) + 1] + b"..."
        text = self.text(path.decode("latin-1"))
        if "%" in text:
            # An upstream reads `%5F` as `_`, and so would whoever reads the log.
            spelled_out = unquote(text, "latin-1")
            redacted = self.text(spelled_out)
            if redacted != spelled_out:
                text = redacted
        return text

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
