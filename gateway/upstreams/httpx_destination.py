"""A target over httpx: its client, its proxy if it has one, and how a raw request target passes through them."""

from __future__ import annotations

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

import httpx

from gateway.errors import BadRequest

if TYPE_CHECKING:
    import ssl

    from gateway.config.tree import UpstreamSection
    from gateway.upstreams.targets import Target


class HttpxDestination:
    """One target and the client that reaches it.

    httpx tidies paths (it resolves `/./` and `/../`, and quotes). What was priced must be what is sent, so the target
    goes around it as an httpcore extension. Through a proxy that takes two more forms: for http the extension is in
    absolute form (RFC 9112 section 3.2.2); for https it would end up in the CONNECT, so there the URL must do, and a
    target that httpx would change is refused.
    """

    __slots__ = ("_prefix", "_tunnelled", "client", "target")

    def __init__(self, target: Target, settings: UpstreamSection, tls: ssl.SSLContext) -> None:
        proxy = _proxy(target, settings)
        self.target = target
        self.client = _client(settings, proxy, tls)
        self._tunnelled = proxy is not None and target.tls
        self._prefix = target.base_path
        if proxy is not None and not target.tls:
            self._prefix = b"http://" + target.authority + target.base_path

    def request(self, method: bytes, raw_target: bytes, extensions: dict[str, Any], **rest: Any) -> httpx.Request:
        """Raises BadRequest for a target that can't pass unchanged."""
        raw_target = self._prefix + raw_target
        url = httpx.URL(self.target.url)
        if self._tunnelled:
            url = url.copy_with(raw_path=raw_target)
            if url.raw_path != raw_target:
                raise BadRequest("The request target has characters that this upstream's proxy does not let through.")
        else:
            extensions["target"] = raw_target
        return httpx.Request(method.decode("ascii"), url, extensions=extensions, **rest)


def _proxy(target: Target, settings: UpstreamSection) -> str | None:
    """The proxy's URL: the configured one, or the environment's where that is trusted."""
    if settings.proxy_url is not None:
        return settings.proxy_url.get_secret_value()
    if not settings.trust_env or proxy_bypass(f"{target.host}:{target.port}"):
        return None
    proxies = getproxies()
    url = proxies.get("https" if target.tls else "http") or proxies.get("all")
    return url if url is None or "://" in url else f"http://{url}"


def _client(settings: UpstreamSection, proxy: str | None, tls: ssl.SSLContext) -> httpx.AsyncClient:
    limits = httpx.Limits(
        max_connections=settings.connections_max, keepalive_expiry=settings.keep_alive_timeout_seconds
    )
    return httpx.AsyncClient(
        verify=tls,
        http2=settings.http2,
        proxy=proxy,
        trust_env=False,
        follow_redirects=False,
        limits=limits,
        # A cookie of one caller is none of another's: keep none.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )
