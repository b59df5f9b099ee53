"""The base URLs of an upstream."""

from __future__ import annotations

from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


class Target:
    """One base URL, taken apart once at load. Raises ValueError for a URL that is not one.

    `authority` is what the Host field says (RFC 9110 section 7.2); `base_path` is put before each request target.
    """

    __slots__ = ("authority", "base_path", "host", "port", "tls", "url")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is not an http:// or https:// URL with a host")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{url!r} may have a path, but no user, query or fragment")
        default_port = DEFAULT_PORTS[parts.scheme]
        self.url = url
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or default_port
        self.base_path = parts.path.rstrip("/").encode("ascii")
        host = f"[{self.host}]" if ":" in self.host else self.host.encode("idna").decode("ascii")
        self.authority = (host if self.port == default_port else f"{host}:{self.port}").encode("ascii")
