"""Routes: from method and raw path to what a call costs and where it goes.

A path of the config is literal, or has `{name}` for one segment, or ends in `{name:path}` for all the rest. The most
specific wins: compared segment by segment from the left, a literal beats `{name}` beats `{name:path}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.config.tree import RouteSection, SettledCost
from gateway.errors import BadRequest, MethodNotAllowed, NoRoute
from gateway.observe.accumulators import RouteMetrics
from gateway.proxy.paths import is_plain
from gateway.upstreams.transport import Transport


class Route:
    """One route of the config, with everything a call needs worked out at load."""

    __slots__ = (
        "body_max_bytes",
        "cost",
        "cost_field",
        "is_public",
        "is_websocket",
        "metrics",
        "name",
        "release_on",
        "releases_4xx",
        "releases_5xx",
        "settle_header",
        "strip",
        "transport",
    )

    def __init__(
        self, section: RouteSection, transport: Transport, metrics: RouteMetrics, *, body_max_bytes: int
    ) -> None:
        cost = section.cost
        self.name = section.path
        self.cost = cost.hold if isinstance(cost, SettledCost) else (cost or 0)
        self.cost_field = (b"x-gateway-cost", b"%d" % self.cost)
        self.settle_header = cost.settle.lower().encode("ascii") if isinstance(cost, SettledCost) else b""
        self.is_public = section.public
        self.is_websocket = section.websocket
        self.release_on = frozenset(section.release_on)
        self.releases_4xx = "4xx" in section.release_on
        self.releases_5xx = "5xx" in section.release_on
        self.body_max_bytes = section.body_max_bytes or body_max_bytes
        self.strip = len(section.strip_prefix.rstrip("/").encode("ascii"))
        self.transport = transport
        self.metrics = metrics


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
        self._literal: dict[bytes, dict[str, Route]] = {}
        self._root = _Node()
        for section, route in routes:
            self._add(section, route)

    def match(self, method: str, raw_path: bytes) -> Route:
        """The route of a call.

        Raises BadRequest for a path that could be read in two ways, NoRoute, or MethodNotAllowed.
        """
        by_method = self._literal.get(raw_path)
        if by_method is not None:
            route = by_method.get(method)
            if route is not None:
                return route
        elif not is_plain(raw_path):
            raise BadRequest("The path is spelled in a way that could be read as another path.")
        return self._search(method, raw_path)

    def _search(self, method: str, raw_path: bytes) -> Route:
        allowed: set[str] = set()
        for by_method in _candidates(self._root, raw_path.split(b"/")[1:]):
            route = by_method.get(method)
            if route is not None:
                return route
            allowed.update(by_method)
        if allowed:
            raise MethodNotAllowed(tuple(sorted(allowed)))
        raise NoRoute

    def _add(self, section: RouteSection, route: Route) -> None:
        node = self._root
        for segment in section.path.encode("ascii").split(b"/")[1:]:
            if segment.endswith(b":path}"):
                _put(node.any_rest, section, route)
                return
            if segment.startswith(b"{"):
                node.any_segment = node = node.any_segment or _Node()
            else:
                node = node.literals.setdefault(segment, _Node())
        _put(node.routes, section, route)
        if "{" not in section.path:
            self._literal[section.path.encode("ascii")] = node.routes


def _put(by_method: dict[str, Route], section: RouteSection, route: Route) -> None:
    by_method.update(dict.fromkeys(section.methods, route))


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
