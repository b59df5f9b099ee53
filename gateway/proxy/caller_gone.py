"""Why a request's body ends too early."""

from __future__ import annotations


class CallerGone(OSError):
    """The caller left in the middle of its body. Whoever sends the body upstream must break off, never finish it.

    An OSError, as what `send` raises when nobody is there any more (ASGI 2.4)."""
