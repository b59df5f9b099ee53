"""Which route a call takes: the most specific one, whatever the order, in time that no path can stretch."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.tree import RateLimitSection
from gateway.credits.provider import NO_POLICY, Policy, RateLimit
from gateway.errors import BadRequest, MethodNotAllowed, NoRoute
from gateway.proxy.route import Route
from gateway.proxy.routes import RouteTable
from tests.proxy.harness import request, section


def table(*paths, methods=("GET",)):
    sections = [section(path, methods=methods, cost=1) for path in paths]
    return RouteTable([(entry, Route(entry, None, None, body_max_bytes=1)) for entry in sections])


def match(routes, path, method="GET"):
    return routes.match(method, path.encode()).name


OVERLAPPING = (
    "/",
    "/a",
    "/a/b",
    "/a/{x}",
    "/a/{x}/c",
    "/a/b/{x}",
    "/a/{rest:path}",
    "/{x}",
    "/{x}/b",
    "/{x}/b/{rest:path}",
    "/{rest:path}",
)

MATCHES = [
    ("/", "/"),
    ("/a", "/a"),
    ("/b", "/{x}"),
    ("/a/b", "/a/b"),
    ("/a/z", "/a/{x}"),
    ("/a/z/c", "/a/{x}/c"),
    ("/a/b/c", "/a/b/{x}"),
    ("/a/b/c/d", "/a/{rest:path}"),
    ("/a/z/d", "/a/{rest:path}"),
    ("/z/b", "/{x}/b"),
    ("/z/b/c", "/{x}/b/{rest:path}"),
    ("/z/z/z", "/{rest:path}"),
    ("/a%41", "/{x}"),
]


@pytest.mark.parametrize("order", [OVERLAPPING, OVERLAPPING[::-1]], ids=["listed", "reversed"])
@pytest.mark.parametrize(("path", "route"), MATCHES)
def test_the_most_specific_route_wins(order, path, route):
    assert match(table(*order), path) == route


NOWHERE = ["/", "/b", "/a/", "/a/b/", "/aa", "/a/b/c", "/A", "/%61", "/ab"]


@pytest.mark.parametrize("path", NOWHERE)
def test_what_is_not_sold_is_not_found(path):
    """Nothing is decoded, folded or completed: another spelling is another path."""
    with pytest.raises(NoRoute):
        match(table("/a", "/a/b"), path)


@pytest.mark.parametrize("path", ["/a/", "/a"])
def test_a_placeholder_takes_no_empty_segment(path):
    for pattern in ("/a/{x}", "/a/{rest:path}"):
        with pytest.raises(NoRoute):
            match(table(pattern), path)


def test_a_method_that_no_route_of_the_path_takes_names_those_that_are():
    entries = [
        section("/a/b", methods=("GET", "HEAD"), cost=1),
        section("/a/{x}", methods=("POST",), cost=2),
        section("/{rest:path}", methods=("DELETE",), cost=3),
    ]
    routes = RouteTable([(entry, Route(entry, None, None, body_max_bytes=1)) for entry in entries])
    assert routes.match("POST", b"/a/b").cost == 2
    assert routes.match("DELETE", b"/a/b").cost == 3
    with pytest.raises(MethodNotAllowed) as refused:
        routes.match("PUT", b"/a/b")
    assert dict(refused.value.headers)[b"allow"] == b"DELETE, GET, HEAD, POST"
    with pytest.raises(MethodNotAllowed) as refused:
        routes.match("GET", b"/z")
    assert dict(refused.value.headers)[b"allow"] == b"DELETE"


@pytest.mark.parametrize("path", ["/a/../b", "/a%2fb", "//a", "/a;x", "/%2e%2e/a"])
def test_an_ambiguous_path_is_refused_before_routing(path):
    with pytest.raises(BadRequest):
        match(table("/{rest:path}"), path)


def naive(patterns, path):
    """The rule as the docs say it: of all that match, compared segment by segment, literal before {x} before rest."""
    segments = path[1:].split("/")

    def rank(pattern):
        ranks = []
        for at, part in enumerate(pattern[1:].split("/")):
            if part.endswith(":path}"):
                return [*ranks, 2] if len(segments) > at and segments[at] else None
            if at >= len(segments):
                return None
            if part.startswith("{"):
                if not segments[at]:
                    return None
                ranks.append(1)
            elif part == segments[at]:
                ranks.append(0)
            else:
                return None
        return ranks if len(ranks) == len(segments) else None

    ranked = [(ranks, pattern) for pattern in patterns if (ranks := rank(pattern)) is not None]
    return min(ranked)[1] if ranked else None


PARTS = st.sampled_from(["a", "b", "c", "{x}"])
PATTERNS = st.builds(
    lambda parts, rest: "/" + "/".join([*(f"{{x{i}}}" if p == "{x}" else p for i, p in enumerate(parts)), *rest]),
    st.lists(PARTS, min_size=1, max_size=4),
    st.sampled_from([(), ("{rest:path}",)]),
)
PATHS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))


@settings(deadline=None)
@given(st.lists(PATTERNS, min_size=1, max_size=8, unique_by=lambda path: path), st.lists(PATHS, max_size=8))
def test_the_table_agrees_with_the_rule(patterns, paths):
    routes = table(*patterns)
    for path in paths:
        expected = naive(patterns, path)
        if expected is None:
            with pytest.raises(NoRoute):
                match(routes, path)
        else:
            assert match(routes, path) == expected


def test_no_path_makes_the_search_explode():
    """Every combination of literal and placeholder at eight levels, and a path that fits them all but for its end."""
    patterns = ["/" + "/".join(parts) + "/end" for parts in itertools.product("a{", repeat=8)]
    patterns = [
        "/".join(f"{{x{i}}}" if part == "{" else part for i, part in enumerate(pattern.split("/")))
        for pattern in patterns
    ]
    routes = table(*patterns, "/{rest:path}")
    for path in ("/" + "a/" * 8 + "nowhere", "/" + "a/" * 2_700 + "b", "/" + "a" * 8_000):
        started = time.perf_counter()
        assert match(routes, path) == "/{rest:path}"
        assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize("query", ["", "?", "?a=b&a=c", "?x=%2e%2e/%2f//;#"[:-1], "?[]{}|^`"])
def test_what_was_matched_is_what_is_forwarded_byte_for_byte(account, upstream, query):
    target = "/paid/echo" + query
    assert account.ask(target).status == 200
    assert upstream.seen[0].target == ("/paid/echo" if query == "?" else target)


def test_a_prefix_is_taken_off_and_nothing_else(account, upstream):
    assert account.ask("/stripped/echo?a=/stripped/b").status == 200
    assert upstream.seen[0].target == "/echo?a=/stripped/b"


@pytest.mark.parametrize("path", ["/public/../paid/ok", "/public/%2e%2e/paid/ok", "/public/..%2fpaid/ok", "//paid/ok"])
def test_no_spelling_reaches_a_paid_upstream_without_a_key(proxy, upstream, path):
    assert proxy.ask(request(path)).status == 400
    assert upstream.seen == []


@pytest.mark.parametrize("target", ["http://gateway.test/paid/ok", "http://127.0.0.1:1/paid/ok", "http://a/paid/ok?b"])
def test_an_absolute_target_is_priced_by_its_path_and_never_chooses_the_upstream(proxy, account, upstream, target):
    assert proxy.ask(request(target)).status == 401
    assert account.ask(target).status == 200
    assert [seen.target.partition("?")[0] for seen in upstream.seen] == ["/paid/ok"]


SPELLINGS = [
    "/v1/Personas",
    "/V1/personas",
    "/v1/%70ersonas",
    "/v1/%50ersonas",
    "/v1/personas/",
    "/v%31/personas",
    "/v1/persona%73/",
]


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_spelling_of_a_dear_route_passes_as_a_cheap_one(path):
    """Many upstreams serve all of these as /v1/personas."""
    routes = table("/v1/personas", "/v1/{rest:path}", "/{version}/personas", "/{all:path}")
    with pytest.raises(BadRequest):
        match(routes, path)


@pytest.mark.parametrize("path", ["/v1/Other", "/v1/%41/b", "/v1/a%40b.example", "/v1/personas/x/", "/v1/%C3%A9"])
def test_spellings_that_no_other_route_claims_are_served(path):
    assert match(table("/v1/personas", "/v1/{rest:path}"), path) == "/v1/{rest:path}"


def test_routes_that_differ_by_case_alone_are_each_served_as_written():
    routes = table("/v1/Personas", "/v1/personas", "/v1/{rest:path}")
    assert match(routes, "/v1/Personas") == "/v1/Personas"
    assert match(routes, "/v1/personas") == "/v1/personas"
    with pytest.raises(BadRequest):
        match(routes, "/v1/PERSONAS")


def test_a_method_that_the_dear_route_does_not_take_is_nobody_elses_bargain():
    sections = [section("/v1/personas", methods=("POST",), cost=5), section("/v1/{rest:path}", cost=0)]
    routes = RouteTable([(entry, Route(entry, None, None, body_max_bytes=1)) for entry in sections])
    assert match(routes, "/v1/Personas", "GET") == "/v1/{rest:path}"
    with pytest.raises(BadRequest):
        match(routes, "/v1/Personas", "POST")


def policy_of(**more):
    return Route(section("/a", cost=1, **more), None, None, body_max_bytes=1).policy


def test_a_route_that_asks_for_nothing_has_the_policy_that_costs_nothing():
    assert policy_of() is NO_POLICY


def test_routes_of_one_path_count_their_calls_apart_however_their_methods_are_ordered():
    limit = RateLimitSection(limit=10, window_seconds=60)
    assert policy_of(rate_limit=limit, methods=("POST",)) == Policy("", RateLimit(10, 60, "POST /a"))
    assert policy_of(rate_limit=limit, methods=("GET", "HEAD")) == policy_of(rate_limit=limit, methods=("HEAD", "GET"))
    assert policy_of(rate_limit=limit, methods=("GET",)) != policy_of(rate_limit=limit, methods=("POST",))


def test_a_permission_is_asked_for_as_it_is_written():
    assert policy_of(permission="b  or a") == Policy("b  or a")
