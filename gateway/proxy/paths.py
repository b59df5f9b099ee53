"""Which spellings of a path are plain. Anything that two servers could read differently is refused before routing.

The path is matched and forwarded byte for byte; so a spelling whose meaning depends on who decodes it (dot segments,
encoded slashes, double encoding, empty segments, parameters behind `;`) must not get that far: it is how calls reach
a metered upstream unpaid (RFC 3986 section 6.2.2; CVE-2019-9901, CVE-2021-29492).
"""

from __future__ import annotations

import re

_SEGMENT = rb"(?!\.{1,2}(?:/|\Z))(?:[A-Za-z0-9\-._~!$&'()*+,=:@]|%[2-9A-Fa-f][0-9A-Fa-f])+"
"""RFC 3986 pchar without `;`, escapes of what is not a control character; not `.` or `..`."""
_SEGMENTS = re.compile(rb"/(?:" + _SEGMENT + rb"/)*(?:" + _SEGMENT + rb")?")
_AMBIGUOUS_ESCAPE = re.compile(rb"%(?:2[EeFf5]|5[Cc]|3[Bb]|7[Ff])")
"""An encoded dot, slash, percent sign, backslash or semicolon, and DEL."""


def is_plain(raw_path: bytes) -> bool:
    """Whether everybody reads this path alike."""
    return _SEGMENTS.fullmatch(raw_path) is not None and _AMBIGUOUS_ESCAPE.search(raw_path) is None


_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


def fold(raw_path: bytes) -> bytes:
    """The path as the most lenient upstream reads it: escapes of plain characters undone, letters in lower case, no
    slash at the end. For comparing only: what is forwarded is never changed."""
    if b"%" in raw_path:
        raw_path = _ESCAPE.sub(_unescape, raw_path)
    folded = raw_path.lower()
    return folded.rstrip(b"/") or b"/"


def _unescape(match: re.Match[bytes]) -> bytes:
    character = bytes((int(match[1], 16),))
    return character if b" " < character <= b"~" and character not in b"/{}%" else match[0]
