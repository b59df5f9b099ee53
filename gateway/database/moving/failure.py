"""Why nothing can be moved."""

from __future__ import annotations


class MovingFailed(Exception):
    """The export or import can't be done; the message says why and what to do."""
