"""Whether what a section of the config needs is installed here."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def lacks_otel() -> bool:
    """Whether the extra `otel` is missing."""
    try:
        return any(find_spec(name) is None for name in _NEEDED)
    except (ImportError, ValueError):
        return True
