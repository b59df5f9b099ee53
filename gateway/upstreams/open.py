"""From config to upstreams."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gateway.observe.metrics import Metrics
from gateway.upstreams.health_check import HealthCheck
from gateway.upstreams.http1 import Http1Transport
from gateway.upstreams.member import Member
from gateway.upstreams.targets import Target
from gateway.upstreams.tls import client_context
from gateway.upstreams.upstream import Upstream

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from gateway.config.tree import HealthCheckSection, UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.upstreams.transport import TargetTransport


def open_transports(
    upstreams: Mapping[str, UpstreamSection],
    deadlines: Deadlines,
    loop: asyncio.AbstractEventLoop,
    metrics: Metrics | None = None,
) -> dict[str, Upstream]:
    """Each upstream by name. Raises what open_upstream raises."""
    return {name: open_upstream(name, section, deadlines, loop, metrics) for name, section in upstreams.items()}


def open_upstream(
    name: str,
    section: UpstreamSection,
    deadlines: Deadlines,
    loop: asyncio.AbstractEventLoop,
    metrics: Metrics | None = None,
) -> Upstream:
    """An upstream from its section, to be closed by `aclose`. Call it on the event loop: health checks begin to run,
    nothing else is connected yet. Others, also of the same name, are not touched.

    Raises ValueError or OSError for a target or `ca_file` that can't be used.
    """
    targets = [Target(url) for url in section.base_urls]
    weights = [1 if isinstance(target, str) else target.weight for target in section.targets]
    make = _Transports(section, deadlines, loop, with_tls=any(target.tls for target in targets)).make
    members = [
        Member(target.url, weight, make(target, section), section.ejection)
        for target, weight in zip(targets, weights, strict=True)
    ]
    upstream = Upstream(name, section, members, metrics or Metrics(), deadlines, loop)
    check = section.health_check
    if check is not None:
        own = _for_checks(section, check)
        chance = Random()
        upstream.add_checks(
            [
                HealthCheck(check, make(target, own), _teller(upstream, member), chance, loop)
                for target, member in zip(targets, members, strict=True)
            ]
        )
    return upstream


class _Transports:
    """Makes the transports of one upstream, of the kind that its `transport` says."""

    def __init__(
        self, section: UpstreamSection, deadlines: Deadlines, loop: asyncio.AbstractEventLoop, *, with_tls: bool
    ) -> None:
        self._deadlines = deadlines
        self._loop = loop
        self._is_httpx = section.transport == "httpx"
        self._tls = client_context(section.tls) if with_tls or self._is_httpx else None
        if self._tls is not None and not self._is_httpx:
            self._tls.set_alpn_protocols(["http/1.1"])

    def make(self, target: Target, settings: UpstreamSection) -> TargetTransport:
        if self._is_httpx:
            # Imported late: httpx makes up a tenth of what a start waits for.
            from gateway.upstreams.httpx_transport import HttpxTransport

            assert self._tls is not None
            return HttpxTransport(target, settings, self._tls, self._deadlines, self._loop)
        return Http1Transport(target, settings, self._tls, self._deadlines, self._loop)


def _for_checks(section: UpstreamSection, check: HealthCheckSection) -> UpstreamSection:
    """The upstream's settings, for connections on which nothing but health checks are sent."""
    seconds = check.timeout_seconds
    return section.model_copy(
        update={
            "connections_max": 1,
            "connect_timeout_seconds": seconds,
            "response_timeout_seconds": seconds,
            "idle_timeout_seconds": seconds,
        }
    )


def _teller(upstream: Upstream, member: Member) -> Callable[[bool, str], None]:
    return lambda is_down, cause: upstream.set_down(member, is_down, cause)
