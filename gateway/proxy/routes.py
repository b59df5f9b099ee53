"""Routes: from method and raw path to what a call costs and where it goes.

A path of the config is literal, or has `{name}` for one segment, or ends in `{name:path}` for all the rest. The most
specific wins: compared segment by segment from the left, a literal beats `{name}` beats `{name:path}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.config.tree import RouteSection, SettledCost
from gateway.credits.provider import NO_POLICY, Policy, RateLimit
from gateway.errors import BadRequest, MethodNotAllowed, NoRoute
from gateway.observe.accumulators import RouteMetrics
from gateway.proxy.body import Uploads
from gateway.proxy.paths import fold, is_plain
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


class _Node:
    """A segment of the tree of patterns. `routes` are by method, for a path that ends here."""

    __slots__ = ("any_rest", "any_segment", "literals", "routes")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.any_segment: _Node | None = None
        self.any_rest: dict[str, Route] = {}
        self.routes: dict[str, Route] = {}


class RouteTable:
    """All routes. `match` is on the hot path: a literal path costs one look-up."""

    def __init__(self, routes: Sequence[tuple[RouteSection, Route]]) -> None:
        self.routes = [route for _, route in routes]
        self._by_identity = {_identity(section): route for section, route in routes}
        self._literal: dict[bytes, dict[str, Route]] = {}
        self._root = _Node()
        self._folded = _Node()
        for section, route in routes:
            path = section.path.encode("ascii")
            routes_here = _add(self._root, path, section, route)
            if b"{" not in path:
                self._literal[path] = routes_here
            _add(self._folded, _fold_pattern(path), section, route)

    def match(self, method: str, raw_path: bytes) -> Route:
        """The route of a call.

        Raises BadRequest for a path that could be read as another route's, NoRoute, or MethodNotAllowed.
        """
        by_method = self._literal.get(raw_path)
        if by_method is not None:
            route = by_method.get(method)
            if route is not None:
                return route
        elif not is_plain(raw_path):
            raise BadRequest("The path is spelled in a way that could be read as another path.")
        return self._search(method, raw_path)

    def find_former(self, section: RouteSection) -> Route | None:
        """The route that this one takes the place of: of the same path and methods, whatever else it says."""
        return self._by_identity.get(_identity(section))

    def _search(self, method: str, raw_path: bytes) -> Route:
        allowed: set[str] = set()
        for by_method in _candidates(self._root, raw_path.split(b"/")[1:]):
            route = by_method.get(method)
            if route is not None:
                self._check_folded(method, raw_path, route)
                return route
            allowed.update(by_method)
        if allowed:
            raise MethodNotAllowed(tuple(sorted(allowed)))
        raise NoRoute

    def _check_folded(self, method: str, raw_path: bytes, route: Route) -> None:
        """A path that missed a route by its spelling alone must not pass as a cheaper one's: many upstreams serve
        /v1/Personas, /v1/%70ersonas and /v1/personas/ as /v1/personas."""
        folded = fold(raw_path)
        for by_method in _candidates(self._folded, folded.split(b"/")[1:]):
            other = by_method.get(method)
            if other is not None:
                if other is not route:
                    raise BadRequest("The path is spelled in a way that an upstream could read as another route's.")
                return


def _identity(section: RouteSection) -> tuple[str, frozenset[str]]:
    return section.path, frozenset(section.methods)


def _add(node: _Node, path: bytes, section: RouteSection, route: Route) -> dict[str, Route]:
    """Put the route at its place in the tree; all routes of that place."""
    for segment in path.split(b"/")[1:]:
        if segment.endswith(b":path}"):
            return _put(node.any_rest, section, route)
        if segment.startswith(b"{"):
            node.any_segment = node = node.any_segment or _Node()
        else:
            node = node.literals.setdefault(segment, _Node())
    return _put(node.routes, section, route)


def _fold_pattern(path: bytes) -> bytes:
    """`fold` for a path of the config: only its literal segments are folded."""
    segments = [segment if segment.startswith(b"{") else fold(b"/" + segment)[1:] for segment in path.split(b"/")[1:]]
    return b"/" + b"/".join(segments)


def _put(by_method: dict[str, Route], section: RouteSection, route: Route) -> dict[str, Route]:
    for method in section.methods:
        by_method.setdefault(method, route)
    return by_method


def _candidates(node: _Node, segments: list[bytes]) -> list[Mapping[str, Route]]:
    """What the path may match, most specific first. `{name}` takes a segment that is not empty, `{name:path}` one or
    more of them. Paths have a bounded length and each level branches in two at most where patterns overlap."""
    if not segments:
        return [node.routes] if node.routes else []
    found: list[Mapping[str, Route]] = []
    literal = node.literals.get(segments[0])
    if literal is not None:
        found += _candidates(literal, segments[1:])
    if node.any_segment is not None and segments[0]:
        found += _candidates(node.any_segment, segments[1:])
    if node.any_rest and segments[0]:
        found.append(node.any_rest)
    return found
