"""What goes wrong between the application and its caller."""

from __future__ import annotations


class CallerLeft(OSError):
    """Nobody is there any more to send to (ASGI 2.4: `send` raises OSError)."""


class BadResponseHead(RuntimeError):
    """The application's response head can't be sent. Nothing of it was."""
