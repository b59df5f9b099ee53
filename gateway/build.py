"""Which build of the gateway this is: see setup.py."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec


def build() -> str:
    """`compiled` where the hot path is C extensions, else `pure Python`."""
    spec = find_spec("gateway.credits.batch")
    origin = "" if spec is None or spec.origin is None else spec.origin
    return "compiled" if origin.endswith(tuple(EXTENSION_SUFFIXES)) else "pure Python"
