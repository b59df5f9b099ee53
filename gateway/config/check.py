"""Checks across fields: what a single value can't say about itself.

A Config in, findings out. Nothing is opened, resolved or changed; what is installed is looked at where it matters. A
finding never quotes a URL, for it may hold a password.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.config.address import check_base_url, check_page_url
from gateway.config.installation import lacks_otel
from gateway.config.problem import Finding, Path, did_you_mean
from gateway.config.route_path import RoutePath, check_prefix
from gateway.config.tree import (
    AdminSection,
    Config,
    Method,
    NotificationsSection,
    RouteSection,
    SettledCost,
    StripeSection,
    TelemetrySection,
    UpstreamSection,
)
from gateway.permissions import PermissionQuery

_NOT_FOR_COSTS = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length", "content-encoding", "content-range", "content-type"),
        *("host", "set-cookie"),
    }
)
"""Hop-by-hop fields (RFC 9110 section 7.6.1), framing, and what would break the response if it were consumed."""
_EVERY_HOST = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?")
"""RFC 6454 section 6.2, as browsers write it: compared letter by letter."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_EXPORTERS_OWN = ("content-type", "content-length", "content-encoding", "transfer-encoding", "host", "connection")
_BEATS_MIN = 3
"""A process may miss a beat or two without being taken for dead: that would end holds that are in use."""


def check(config: Config) -> list[Finding]:
    """Everything that is wrong across the fields of the config."""
    return [
        *_check_server(config),
        *_check_database(config),
        *_check_credits(config),
        *_check_identity(config),
        *_check_origins(config),
        *_check_upstreams(config),
        *_check_routes(config),
        *_check_ties(config.routes),
        *_check_billing(config),
        *_check_notifications(config.notifications),
        *_check_telemetry(config.telemetry),
    ]


def _check_server(config: Config) -> Iterator[Finding]:
    for index, network in enumerate(config.server.trusted_proxies):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            host_bits = "host bits" in str(error)
            why = "bits are set outside the network's mask" if host_bits else "not an IP address or network"
            yield Finding(("server", "trusted_proxies", index), why, shows=True)
    admin = config.admin
    if admin is None or not admin.port or admin.port != config.server.port:
        return
    hosts = {admin.host, config.server.host}
    if len(hosts) == 1 or hosts & set(_EVERY_HOST):
        depends: tuple[Path, ...] = tuple((section, key) for section in ("server", "admin") for key in ("host", "port"))
        # Point at the one that was written, not at a default.
        mine, other = ("admin", "server") if admin != AdminSection() else ("server", "admin")
        yield Finding((mine, "port"), f"must not be the same as {other}.port, {admin.port}", depends=depends)


def _check_database(config: Config) -> Iterator[Finding]:
    url = config.database.url.get_secret_value()
    path: Path = ("database", "url")
    if url.startswith(("postgresql:", "postgresql+psycopg:", "postgres:")):
        if _lacks_database(url):
            yield Finding(path, "expected postgresql://user:password@host/database")
    elif not url.startswith("sqlite:///") or "?" in url or url == "sqlite:///":
        yield Finding(
            path, "expected sqlite:///path.db, sqlite:////absolute/path.db or postgresql://user:password@host/database"
        )
    elif url.startswith("sqlite:///:memory:"):
        yield Finding(path, "a database in memory would forget what customers paid for: use sqlite:///path.db")


def _lacks_database(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return True
    return not parts.path.strip("/") or "/" in parts.path.strip("/") or not url.partition(":")[2].startswith("//")


def _check_credits(config: Config) -> Iterator[Finding]:
    section = config.credits
    if section.provider == "unkey" and section.unkey is None:
        path: Path = ("credits", "unkey")
        yield Finding(path, "is needed with provider: unkey", depends=(path, ("credits", "provider")))
    if section.unkey is not None:
        # Over plain http the root key could be read on its way.
        wrong = check_base_url(section.unkey.base_url) or check_page_url(section.unkey.base_url)
        if wrong is not None:
            yield Finding(("credits", "unkey", "base_url"), wrong)
    if section.dead_after_seconds < _BEATS_MIN * section.heartbeat_seconds:
        beat, dead = ("credits", "heartbeat_seconds"), ("credits", "dead_after_seconds")
        least = _BEATS_MIN * section.heartbeat_seconds
        message = f"must be at least {_BEATS_MIN} × heartbeat_seconds, here {least:g}"
        yield Finding(dead, message, depends=(beat, dead))


def _check_identity(config: Config) -> Iterator[Finding]:
    if config.identity.jwt is None:
        return
    url = config.identity.jwt.jwks_url
    # Over plain http somebody on the way could put in keys of their own, and be every user.
    wrong = check_base_url(url, query_allowed=True) or check_page_url(url)
    if wrong is not None:
        yield Finding(("identity", "jwt", "jwks_url"), wrong)


def _check_upstreams(config: Config) -> Iterator[Finding]:
    for name, upstream in config.upstreams.items():
        at: Path = ("upstreams", name)
        first: dict[str, int] = {}
        for index, url in enumerate(upstream.base_urls):
            yield from _url_finding(_url_path(at, upstream, index), url)
            other = first.setdefault(url.rstrip("/"), index)
            if other != index:
                depends = (_url_path(at, upstream, index), _url_path(at, upstream, other))
                yield Finding(depends[0], f"targets[{other}] is the same: give it a weight instead", None, depends)
        yield from _check_transport(at, upstream)
        yield from _check_times(at, upstream)


def _url_path(at: Path, upstream: UpstreamSection, index: int) -> Path:
    path: Path = (*at, "targets", index)
    return path if isinstance(upstream.targets[index], str) else (*path, "url")


def _check_times(at: Path, upstream: UpstreamSection) -> Iterator[Finding]:
    ejection, checks = upstream.ejection, upstream.health_check
    if ejection.max_seconds < ejection.seconds:
        depends = tuple((*at, "ejection", key) for key in ("max_seconds", "seconds"))
        yield Finding(depends[0], f"must not be less than seconds, here {ejection.seconds:g}", None, depends)
    if checks is not None and checks.timeout_seconds > checks.interval_seconds:
        depends = tuple((*at, "health_check", key) for key in ("timeout_seconds", "interval_seconds"))
        message = f"must not be more than interval_seconds, here {checks.interval_seconds:g}"
        yield Finding(depends[0], message, None, depends)


def _check_transport(at: Path, upstream: UpstreamSection) -> Iterator[Finding]:
    if upstream.transport == "httpx":
        return
    asked = {"http2": upstream.http2, "proxy_url": upstream.proxy_url is not None, "trust_env": upstream.trust_env}
    for key, is_set in asked.items():
        if is_set:
            yield Finding((*at, key), "works only with transport: httpx", depends=((*at, key), (*at, "transport")))


def _check_routes(config: Config) -> Iterator[Finding]:
    for index, route in enumerate(config.routes):
        at: Path = ("routes", index)
        yield from _check_path(at, route)
        yield from _check_price(at, route)
        yield from _check_policy(at, route)
        yield from _check_idempotency(at, route)
        yield from _check_upstream(at, route, config)


def _check_path(at: Path, route: RouteSection) -> Iterator[Finding]:
    try:
        path = RoutePath(route.path)
    except ValueError as error:
        yield Finding((*at, "path"), str(error))
        return
    hidden = path.hides()
    if hidden is not None:
        yield Finding((*at, "path"), f"would hide the gateway's own {hidden}: start it with another literal segment")
    wrong = check_prefix(route.strip_prefix, path) if route.strip_prefix else None
    if wrong is not None:
        prefix = (*at, "strip_prefix")
        yield Finding(prefix, wrong, depends=(prefix, (*at, "path")))


def _check_price(at: Path, route: RouteSection) -> Iterator[Finding]:
    depends: tuple[Path, ...] = ((*at, "cost"), (*at, "public"))
    if route.cost is None and not route.public:
        yield Finding(
            at, "say what a call costs (cost: 5, or 0) or that nobody needs a key (public: true)", None, depends
        )
    elif route.cost is not None and route.public:
        yield Finding((*at, "public"), "a public route has no cost: say one or the other", None, depends)
    if isinstance(route.cost, SettledCost):
        header = route.cost.settle.lower()
        if header in _NOT_FOR_COSTS:
            yield Finding((*at, "cost", "settle"), f"the header {header} has a meaning of its own in HTTP")
        elif header.startswith("x-gateway-"):
            yield Finding((*at, "cost", "settle"), "X-Gateway-* headers are the gateway's own")


def _check_policy(at: Path, route: RouteSection) -> Iterator[Finding]:
    of_a_key = ("permission", "rate_limit", "concurrency_per_key")
    for key, asked in ((key, getattr(route, key)) for key in of_a_key):
        if route.public and asked:
            depends: tuple[Path, ...] = ((*at, key), (*at, "public"))
            message = "a public route asks for no key: take this out, or say cost: 0 instead of public: true"
            yield Finding((*at, key), message, None, depends)
    if route.permission:
        try:
            PermissionQuery(route.permission)
        except ValueError as error:
            yield Finding((*at, "permission"), str(error), shows=True)


def _check_idempotency(at: Path, route: RouteSection) -> Iterator[Finding]:
    """Whose repeat it is, the API key says; what is there to be done once, the credits say."""
    if route.idempotency is None:
        return
    unfit = (
        ("public", route.public, "a public route asks for no key, so nobody's calls are told apart"),
        ("cost", route.cost == 0, "a call that costs nothing can't be charged twice"),
        ("websocket", route.websocket, "a WebSocket can't be given again as an answer"),
    )
    mine = (*at, "idempotency")
    for key, is_unfit, why in unfit:
        if is_unfit:
            yield Finding(mine, f"{why}: take this out", None, (mine, (*at, key)))


def _check_upstream(at: Path, route: RouteSection, config: Config) -> Iterator[Finding]:
    path: Path = (*at, "upstream")
    upstream = config.upstreams.get(route.upstream)
    if upstream is None:
        near = did_you_mean(route.upstream, config.upstreams)
        depends: tuple[Path, ...] = (path, ("upstreams", route.upstream))
        yield Finding(path, "there is no such upstream", near, depends, shows=True)
    if not route.websocket:
        return
    socket = (*at, "websocket")
    if "GET" not in route.methods:
        yield Finding(socket, "a WebSocket begins with GET: name it in methods", None, (socket, (*at, "methods")))
    if upstream is not None and upstream.transport != "http1":
        transport: Path = ("upstreams", route.upstream, "transport")
        yield Finding(socket, "needs an upstream with transport: http1", None, (socket, path, transport))


def _check_ties(routes: tuple[RouteSection, ...]) -> Iterator[Finding]:
    """Two routes that take the same calls are both named: only their owner knows which one is meant."""
    by_call: dict[tuple[tuple[str, ...], Method], list[int]] = {}
    for index, route in enumerate(routes):
        try:
            shape = RoutePath(route.path).shape
        except ValueError:
            continue
        for method in dict.fromkeys(route.methods):
            by_call.setdefault((shape, method), []).append(index)
    tied: dict[tuple[int, int], list[Method]] = {}
    for (_, method), indexes in by_call.items():
        for index in indexes:
            other = indexes[0] if index != indexes[0] else indexes[-1]
            if other != index:
                tied.setdefault((index, other), []).append(method)
    for (index, other), methods in tied.items():
        depends = tuple(("routes", at, key) for at in (index, other) for key in ("path", "methods"))
        yield Finding(
            ("routes", index, "path"), f"takes the same {'/'.join(methods)} calls as routes[{other}]", None, depends
        )


def _check_origins(config: Config) -> Iterator[Finding]:
    for index, origin in enumerate(config.identity.cors_origins):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            why = "not an origin, such as https://app.example.com: without a path, in lower case"
            yield Finding(("identity", "cors_origins", index), why, shows=True)


def _check_billing(config: Config) -> Iterator[Finding]:
    billing = config.billing
    first: dict[str, int] = {}
    for index, pack in enumerate(billing.packs):
        if first.setdefault(pack.id, index) != index:
            at = ("billing", "packs", index, "id")
            other = ("billing", "packs", first[pack.id], "id")
            yield Finding(at, f"billing.packs[{first[pack.id]}] has this id already", None, (at, other), shows=True)
    for key, url in (("success_url", billing.success_url), ("cancel_url", billing.cancel_url)):
        path: Path = ("billing", key)
        wrong = check_page_url(url) if url is not None else None
        if url is None and billing.stripe is not None:
            yield Finding(path, "is needed with billing.stripe")
        elif wrong is not None:
            yield Finding(path, wrong)
    if billing.stripe is not None:
        yield from _check_stripe(billing.stripe)


def _check_stripe(stripe: StripeSection) -> Iterator[Finding]:
    at: Path = ("billing", "stripe")
    # Over plain http the secret key could be read on its way.
    wrong = check_base_url(stripe.base_url) or check_page_url(stripe.base_url)
    if wrong is not None:
        yield Finding((*at, "base_url"), wrong)
    mode = _mode_of(stripe.secret_key, "sk", "rk")
    if mode is None:
        yield Finding((*at, "secret_key"), "expected a key that starts with rk_test_, rk_live_, sk_test_ or sk_live_")
    elif stripe.publishable_key.get_secret_value() and _mode_of(stripe.publishable_key, "pk") != mode:
        key: Path = (*at, "publishable_key")
        yield Finding(key, f"expected one that starts with pk_{mode}_, as secret_key", None, (key, (*at, "secret_key")))


def _mode_of(key: SecretStr, *kinds: str) -> str | None:
    """test or live, by how Stripe's keys begin."""
    kind, _, rest = key.get_secret_value().partition("_")
    mode, _, rest = rest.partition("_")
    return mode if kind in kinds and mode in {"test", "live"} and rest else None


def _check_notifications(section: NotificationsSection | None) -> Iterator[Finding]:
    if section is None:
        return
    wrong = check_page_url(section.url)
    if wrong is not None:
        yield Finding(("notifications", "url"), wrong)
    prefix, _, encoded = section.secret.get_secret_value().partition("_")
    try:
        length = len(base64.b64decode(encoded, validate=True)) if prefix == "whsec" else 0
    except ValueError:
        length = 0
    if not 24 <= length <= 64:
        yield Finding(("notifications", "secret"), "expected whsec_ and 24 to 64 bytes in base64")


def _check_telemetry(section: TelemetrySection | None) -> Iterator[Finding]:
    if section is None:
        return
    at: Path = ("telemetry",)
    if lacks_otel():
        yield Finding(
            at, "needs OpenTelemetry, which is not installed: pip install 'credit-gateway[otel]'", at_key=True
        )
    yield from _url_finding((*at, "otlp_endpoint"), section.otlp_endpoint)
    for name, value in section.headers.items():
        header: Path = (*at, "headers", name)
        if not _HEADER_NAME.fullmatch(name):
            yield Finding(header, "not the name of a header", at_key=True)
        elif name.lower() in _EXPORTERS_OWN:
            yield Finding(header, "says how the export is sent, and is not to be chosen", at_key=True)
        elif not _HEADER_VALUE.fullmatch(value.get_secret_value()):
            yield Finding(header, "a header's value is visible ASCII, with no space at its ends")
    if not (section.traces or section.metrics):
        yield Finding(at, "neither traces nor metrics: take this out", None, ((*at, "traces"), (*at, "metrics")))


def _url_finding(path: Path, url: str, *, query_allowed: bool = False) -> Iterator[Finding]:
    wrong = check_base_url(url, query_allowed=query_allowed)
    if wrong is not None:
        yield Finding(path, wrong)
