"""From config to transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.upstreams.http1 import Http1Transport
from gateway.upstreams.httpx_transport import HttpxTransport

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from gateway.config.tree import UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.upstreams.transport import Transport


def open_transports(
    upstreams: Mapping[str, UpstreamSection], deadlines: Deadlines, loop: asyncio.AbstractEventLoop
) -> dict[str, Transport]:
    """A transport for each upstream, by name, of the kind its `transport` says. Nothing is connected yet.

    Raises ValueError or OSError for a target or `ca_file` that can't be used.
    """
    kinds: dict[str, Callable[[str, UpstreamSection, Deadlines, asyncio.AbstractEventLoop], Transport]] = {
        "http1": Http1Transport,
        "httpx": HttpxTransport,
    }
    return {name: kinds[section.transport](name, section, deadlines, loop) for name, section in upstreams.items()}
