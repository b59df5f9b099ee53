"""From config to transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.upstreams.http1 import Http1Transport

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from gateway.config.tree import UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.upstreams.transport import Transport


def open_transports(
    upstreams: Mapping[str, UpstreamSection], deadlines: Deadlines, loop: asyncio.AbstractEventLoop
) -> dict[str, Transport]:
    """A transport for each upstream, by name, of the kind its `transport` says. Nothing is connected yet.

    Raises ValueError or OSError for a target or `ca_file` that can't be used.
    """
    return {name: _open(name, section, deadlines, loop) for name, section in upstreams.items()}


def _open(name: str, section: UpstreamSection, deadlines: Deadlines, loop: asyncio.AbstractEventLoop) -> Transport:
    if section.transport == "http1":
        return Http1Transport(name, section, deadlines, loop)
    # Imported late: httpx makes up a tenth of what a start waits for.
    from gateway.upstreams.httpx_transport import HttpxTransport

    return HttpxTransport(name, section, deadlines, loop)
