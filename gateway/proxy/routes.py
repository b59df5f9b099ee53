"""Routes: from method and raw path to what a call costs and where it goes.

A path of the config is literal, or has `{name}` for one segment, or ends in `{name:path}` for all the rest. The most
specific wins: compared segment by segment from the left, a literal beats `{name}` beats `{name:path}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.config.tree import RouteSection
from gateway.errors import BadRequest, MethodNotAllowed, NoRoute
from gateway.proxy.paths import fold, is_plain
from gateway.proxy.route import Route


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
