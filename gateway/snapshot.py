"""What a config makes of the gateway, as far as it can be made anew while calls run.

    prepare(config) → Snapshot (nothing has changed yet; it may fail) → commit (at once, between two steps of the loop)

A call takes its route at its beginning and nothing else of a snapshot later: route, price, policy, limits, transport
hang together in it. So calls in flight keep what they began with, at no cost per call. Transports of upstreams that
stay the same are kept with their connections; those of others close when their last call is over (retirement.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp

from gateway.api.build import ControlPlanes
from gateway.config.masking import masked
from gateway.config.tree import Config
from gateway.deadlines import Deadlines
from gateway.observe.access_log import AccessLog
from gateway.observe.metrics import Metrics
from gateway.proxy.body import Uploads
from gateway.proxy.headers import HeadReader
from gateway.proxy.route import Route
from gateway.proxy.routes import RouteTable
from gateway.retirement import Retirement
from gateway.upstreams.open import open_transports
from gateway.upstreams.upstream import Upstream

if TYPE_CHECKING:
    from gateway.api.jwks import Jwks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`jwks` is None where no JWT is accepted, `access_log` where none is wanted."""

    config: Config
    upstreams: Mapping[str, Upstream]
    uploads: Mapping[str, Uploads]
    routes: RouteTable
    heads: HeadReader
    control: ASGIApp
    jwks: Jwks | None
    access_log: AccessLog | None


class Snapshots:
    """Makes one after the other. `current` is what new calls go by."""

    def __init__(
        self,
        config: Config,
        planes: ControlPlanes,
        metrics: Metrics,
        deadlines: Deadlines,
        retirement: Retirement,
        access_log_of: Callable[[Config], AccessLog | None],
    ) -> None:
        self._planes = planes
        self._metrics = metrics
        self._deadlines = deadlines
        self._retirement = retirement
        self._access_log_of = access_log_of
        self.current = self._make(config, None)

    def prepare(self, config: Config) -> Snapshot:
        """Raises ValueError or OSError for a target or a `ca_file` that can't be used."""
        return self._make(config, self.current)

    def commit(self, snapshot: Snapshot) -> None:
        old, self.current = self.current, snapshot
        for name, upstream in old.upstreams.items():
            if snapshot.upstreams.get(name) is not upstream:
                users = [route for route in old.routes.routes if route.transport is upstream]
                self._retirement.retire(users, upstream.aclose)
        if old.jwks is not None and old.jwks is not snapshot.jwks:
            self._retirement.retire([old.control], old.jwks.aclose)

    def discard(self, snapshot: Snapshot) -> None:
        """It is not wanted after all."""
        for name, upstream in snapshot.upstreams.items():
            if self.current.upstreams.get(name) is not upstream:
                self._retirement.retire((), upstream.aclose)
        if snapshot.jwks is not None and snapshot.jwks is not self.current.jwks:
            self._retirement.retire((), snapshot.jwks.aclose)

    def describe_upstreams(self) -> list[dict[str, Any]]:
        """For ops: what each upstream is now."""
        described = []
        for name, upstream in self.current.upstreams.items():
            open_count, idle_count, waiting_count = upstream.count_connections()
            connections = {"open": open_count, "idle": idle_count, "waiting": waiting_count}
            targets = masked(tuple(asdict(status) for status in upstream.status()))
            described.append({"name": name, "targets": targets, "connections": connections})
        return described

    async def aclose(self) -> None:
        """After the last call."""
        await self._retirement.aclose()
        if self.current.jwks is not None:
            await self.current.jwks.aclose()
        for upstream in self.current.upstreams.values():
            await upstream.aclose()

    def _make(self, config: Config, old: Snapshot | None) -> Snapshot:
        changed = {
            name: section
            for name, section in config.upstreams.items()
            if old is None or old.config.upstreams.get(name) != section
        }
        fresh = open_transports(changed, self._deadlines, asyncio.get_running_loop(), self._metrics)
        kept_uploads: Mapping[str, Uploads] = {} if old is None else old.uploads
        kept: Mapping[str, Upstream] = {} if old is None else old.upstreams
        upstreams = {name: fresh[name] if name in fresh else kept[name] for name in config.upstreams}
        uploads = {
            name: Uploads(max(1, len(section.targets) * section.connections_max // 2))
            if name in fresh
            else kept_uploads[name]
            for name, section in config.upstreams.items()
        }
        jwks, access_log = self._jwks(config, old), self._access_log_of(config)
        return Snapshot(
            config,
            upstreams,
            uploads,
            _routes(config, upstreams, uploads, self._metrics, None if old is None else old.routes),
            HeadReader(config.server.trusted_proxies),
            self._planes.make(config, jwks, access_log),
            jwks,
            access_log,
        )

    def _jwks(self, config: Config, old: Snapshot | None) -> Jwks | None:
        """The app's public keys; those that are known stay known."""
        jwt = config.identity.jwt
        if jwt is None:
            return None
        former = old.config.identity.jwt if old is not None else None
        if old is not None and former is not None and former.jwks_url == jwt.jwks_url:
            return old.jwks
        from gateway.api.jwks import Jwks  # nobody else waits for httpx

        return Jwks(jwt.jwks_url)


def _routes(
    config: Config,
    upstreams: Mapping[str, Upstream],
    uploads: Mapping[str, Uploads],
    metrics: Metrics,
    former: RouteTable | None,
) -> RouteTable:
    return RouteTable(
        [
            (
                section,
                Route(
                    section,
                    upstreams[section.upstream],
                    metrics.route(section.path),
                    body_max_bytes=config.server.body_max_bytes,
                    uploads=uploads[section.upstream],
                    shows_timing=config.server.timing_headers,
                    former=None if former is None else former.find_former(section),
                ),
            )
            for section in config.routes
        ]
    )
