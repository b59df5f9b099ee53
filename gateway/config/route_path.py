"""The path of a route: literal segments, `{name}` for one segment, a last `{name:path}` for all the rest.

Literal segments are spelled as a call must spell them (gateway.proxy.paths refuses every other spelling), or no call
could ever match.
"""

from __future__ import annotations

import re

PARAMETER = "{}"
REST = "{:path}"

_SEGMENT = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,=:@]|%[2-9A-Fa-f][0-9A-Fa-f])+")
_AMBIGUOUS_ESCAPE = re.compile(r"%(?:2[EeFf5]|5[Cc]|3[Bb]|7[Ff])")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")

_OWN_PATHS = (
    ("healthz",),
    ("readyz",),
    ("pricing",),
    ("checkout",),
    ("stripe-webhook",),
    ("openapi.json",),
    ("docs",),
    ("credits",),
    ("credits", "transactions"),
    ("credits", "adjustments"),
    ("api-keys",),
    ("api-keys", PARAMETER),
    ("api-keys", PARAMETER, "rotate"),
    ("orders",),
    ("orders", PARAMETER),
)
"""The gateway's own paths, as shapes. Routes are matched first, so a route must not match these."""


class RoutePath:
    """A path taken apart. Raises ValueError, saying what is wrong with it.

    `shape` is what decides which calls match: literal segments as they are, and PARAMETER and REST for the others.
    """

    __slots__ = ("shape",)

    def __init__(self, path: str) -> None:
        if not path.startswith("/"):
            raise ValueError('a path starts with "/"')
        segments = path[1:].split("/")
        if segments == [""]:
            self.shape: tuple[str, ...] = ("",)
            return
        _refuse_repeated_names(segments)
        self.shape = tuple(_segment(segment, last=at == len(segments) - 1) for at, segment in enumerate(segments))

    @property
    def literal(self) -> tuple[str, ...]:
        """The segments before the first placeholder."""
        for at, segment in enumerate(self.shape):
            if segment in (PARAMETER, REST):
                return self.shape[:at]
        return self.shape

    def hides(self) -> str | None:
        """One of the gateway's own paths that this one would take, or None. Below those paths nothing is for sale."""
        for own in _OWN_PATHS:
            if own[0] == self.shape[0] or _takes(self.shape, own):
                return "/" + "/".join(segment.replace(PARAMETER, "{id}") for segment in own)
        return None


def _takes(shape: tuple[str, ...], own: tuple[str, ...]) -> bool:
    """Whether a shape with a placeholder in it matches one of the gateway's own paths."""
    for at, segment in enumerate(shape):
        if at == len(own):
            return False
        if segment == REST:
            return True
        if segment not in (PARAMETER, own[at]):
            return False
    return len(shape) == len(own)


def check_prefix(prefix: str, path: RoutePath) -> str | None:
    """What is wrong with a strip_prefix for this path, or None."""
    if not prefix.startswith("/") or prefix.endswith("/"):
        return 'must start with "/" and not end with it'
    segments = tuple(prefix[1:].split("/"))
    if path.literal[: len(segments)] != segments:
        return "must be the path's own first segments, whole ones and without placeholders"
    return None


def _refuse_repeated_names(segments: list[str]) -> None:
    names = [match[1] for match in map(_PLACEHOLDER.fullmatch, segments) if match]
    if len(names) != len(set(names)):
        raise ValueError("a placeholder's name is there twice")


def _segment(segment: str, *, last: bool) -> str:
    if "{" in segment or "}" in segment:
        placeholder = _PLACEHOLDER.fullmatch(segment)
        if placeholder is None:
            raise ValueError("a placeholder is a whole segment: {name}, or {name:path} at the end")
        if placeholder[2] and not last:
            raise ValueError("{name:path} takes all the rest: it can only be the last segment")
        return REST if placeholder[2] else PARAMETER
    if not segment:
        raise ValueError('an empty segment ("//" or a "/" at the end) is not allowed')
    if segment in (".", ".."):
        raise ValueError('"." and ".." are not allowed: calls with them are refused')
    if not _SEGMENT.fullmatch(segment) or _AMBIGUOUS_ESCAPE.search(segment):
        raise ValueError("allowed are letters, digits, -._~!$&'()*+,=:@ and escapes other than %2e %2f %5c %25 %3b")
    return segment
