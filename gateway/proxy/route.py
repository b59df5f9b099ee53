"""One route of the config: what a call costs, where it goes, and what is asked of who calls."""

from __future__ import annotations

from gateway.config.tree import RouteSection, SettledCost
from gateway.credits.provider import NO_POLICY, Policy, RateLimit
from gateway.observe.accumulators import RouteMetrics
from gateway.proxy.body import Uploads
from gateway.proxy.route_limits import AddressLimit, Concurrency
from gateway.upstreams.transport import Transport

UPLOADS_MAX = 128
"""Bodies on their way to an upstream of which nothing is said."""


class Route:
    """One route of the config, with everything a call needs worked out at load. What the `former` has counted of its
    callers counts on: a reload lets nobody begin anew."""

    __slots__ = (
        "__weakref__",  # retirement.py finds out by it when the last call is over
        "address_limit",
        "body_max_bytes",
        "concurrency",
        "cost",
        "cost_field",
        "idempotency",
        "is_public",
        "is_websocket",
        "metrics",
        "name",
        "policy",
        "release_on",
        "releases_4xx",
        "releases_5xx",
        "settle_header",
        "shows_timing",
        "strip",
        "timeout_seconds",
        "transport",
        "uploads",
    )

    def __init__(
        self,
        section: RouteSection,
        transport: Transport,
        metrics: RouteMetrics,
        *,
        body_max_bytes: int,
        uploads: Uploads | None = None,
        shows_timing: bool = False,
        former: Route | None = None,
    ) -> None:
        cost = section.cost
        self.address_limit: AddressLimit | None = _address_limit(section, former)
        self.concurrency: Concurrency | None = _concurrency(section, former)
        self.name = section.path
        self.cost = cost.hold if isinstance(cost, SettledCost) else (cost or 0)
        self.cost_field = (b"x-gateway-cost", b"%d" % self.cost)
        self.settle_header = cost.settle.lower().encode("ascii") if isinstance(cost, SettledCost) else b""
        self.policy = _policy(section)
        self.is_public = section.public
        self.is_websocket = section.websocket
        self.release_on = frozenset(section.release_on)
        self.releases_4xx = "4xx" in section.release_on
        self.releases_5xx = "5xx" in section.release_on
        self.timeout_seconds = section.timeout_seconds
        self.body_max_bytes = section.body_max_bytes or body_max_bytes
        self.idempotency = section.idempotency
        self.strip = len(section.strip_prefix.rstrip("/").encode("ascii"))
        self.transport = transport
        self.uploads = uploads or Uploads(UPLOADS_MAX)
        self.shows_timing = shows_timing
        self.metrics = metrics


def _address_limit(section: RouteSection, former: Route | None) -> AddressLimit | None:
    limit = section.rate_limit_per_address
    if limit is None:
        return None
    counted = None if former is None else former.address_limit
    return AddressLimit(limit) if counted is None else counted.successor(limit)


def _concurrency(section: RouteSection, former: Route | None) -> Concurrency | None:
    limit = section.concurrency_per_key
    if limit is None:
        return None
    counted = None if former is None else former.concurrency
    return Concurrency(limit) if counted is None else counted.successor(limit)


def _policy(section: RouteSection) -> Policy:
    """What is asked of a key beside its credits. Routes of one path count their calls apart, so their methods are in
    the limit's name."""
    limit = section.rate_limit
    if limit is None:
        return Policy(section.permission) if section.permission else NO_POLICY
    name = f"{','.join(sorted(set(section.methods)))} {section.path}"
    return Policy(section.permission, RateLimit(limit.limit, limit.window_seconds, name))
