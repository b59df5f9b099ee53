"""The limits of what the server reads, and for how long it waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.tree import ServerSection

BUFFER_MAX_BYTES = 65_536
"""Bytes of one caller kept unread before its socket is left alone (back-pressure)."""

TURNED_AWAY_MAX = 64
"""Connections over the limit that are told so at a time; the others are dropped without a word."""

LINGER_SECONDS = 1.0
"""After a refusal, how long unread bytes are thrown away before the close: a close with bytes unread is a reset,
and a reset may take the refusal with it (RFC 9112 section 9.6)."""

IDLE_GRACE_SECONDS = 0.1
"""On a drain, how long an idle connection may still bring a request that was on its way."""

FRESH_GRACE_SECONDS = 1.0
"""The same for a connection that has brought none yet, or half a head."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, counts and seconds of `server:` in config.yaml; what each means is said there."""

    connections_max: int
    calls_max: int
    head_max_bytes: int
    head_max_fields: int
    uri_max_bytes: int
    head_timeout_seconds: float
    body_idle_timeout_seconds: float
    body_min_bytes_per_second: int
    write_timeout_seconds: float
    keep_alive_timeout_seconds: float
    turned_away_max: int = TURNED_AWAY_MAX

    @classmethod
    def of(cls, section: ServerSection) -> Limits:
        return cls(
            connections_max=section.connections_max,
            calls_max=section.calls_max,
            head_max_bytes=section.head_max_bytes,
            head_max_fields=section.head_max_fields,
            uri_max_bytes=section.uri_max_bytes,
            head_timeout_seconds=section.head_timeout_seconds,
            body_idle_timeout_seconds=section.body_idle_timeout_seconds,
            body_min_bytes_per_second=section.body_min_bytes_per_second,
            write_timeout_seconds=section.write_timeout_seconds,
            keep_alive_timeout_seconds=section.keep_alive_timeout_seconds,
        )
