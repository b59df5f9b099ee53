"""The certificates of the world's authorities, read once in a process: a client of httpx reads them all, which takes
longer than most tests, and those who are asked here have none."""

from __future__ import annotations

import functools
import ssl
import sys
from typing import Any


def share_authorities() -> None:
    """From now on, whoever wants to trust those that a package brings along gets the same context as all others."""
    create = ssl.create_default_context
    shared = functools.cache(create)

    def create_default_context(*purpose: Any, **options: Any) -> ssl.SSLContext:
        is_packages = not purpose and options.keys() == {"cafile"} and str(options["cafile"]).startswith(sys.prefix)
        return (shared if is_packages else create)(*purpose, **options)

    ssl.create_default_context = create_default_context  # type: ignore[assignment]
