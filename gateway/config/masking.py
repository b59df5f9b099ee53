"""The secrets of the config: which they are, and the config as it may be shown without them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from gateway.config.tree import Section

MASK = "[redacted]"


def masked(value: object) -> Any:
    """The value as JSON takes it. An empty secret is shown as that; of a URL neither user nor query."""
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if isinstance(value, Section):
        return {name: masked(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): masked(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [masked(item) for item in value]
    return _masked_url(value) if isinstance(value, str) and "://" in value else value


def _masked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    host = parts.netloc.rpartition("@")[2]
    query = MASK if parts.query else ""
    return urlunsplit((parts.scheme, f"{MASK}@{host}" if "@" in parts.netloc else host, parts.path, query, ""))


def secrets_of(section: Section) -> Iterable[str]:
    """Every secret of the configuration, for the filter that keeps them out of the logs."""
    for name in type(section).model_fields:
        yield from _secrets_in(getattr(section, name))


def _secrets_in(value: object) -> Iterable[str]:
    if isinstance(value, SecretStr):
        if value.get_secret_value():
            yield value.get_secret_value()
    elif isinstance(value, Section):
        yield from secrets_of(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets_in(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _secrets_in(item)
