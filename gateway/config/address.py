"""URLs that the config may name. What is wrong is said without quoting the URL: it may hold a password."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_VISIBLE = re.compile(r"[!-\[\]-~]+")
"""ASCII that can be seen, but no backslash: some clients read one as a slash."""
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]+)*\.?")


def check_base_url(url: str, *, query_allowed: bool = False) -> str | None:
    """What is wrong with the address of a service that the gateway calls, or None."""
    parts = _split(url)
    if isinstance(parts, str):
        return parts
    if parts.query or (not query_allowed and "?" in url):
        return None if query_allowed else 'must not have a query ("?")'
    return None


def check_page_url(url: str) -> str | None:
    """What is wrong with the address of a page that buyers are sent to, or None. http only on this machine."""
    parts = _split(url, fragment_allowed=True)
    if isinstance(parts, str):
        return parts
    if parts.scheme == "http" and parts.hostname not in _LOCAL_HOSTS:
        return "must be an https:// URL (http:// only for localhost)"
    return None


def _split(url: str, *, fragment_allowed: bool = False) -> SplitResult | str:
    """The parts of an absolute http(s) URL without user info, or what is wrong."""
    if not url.lower().startswith(("http://", "https://")):
        return "expected a URL that starts with http:// or https://"
    if not _VISIBLE.fullmatch(url):
        return "a URL has no spaces, no backslash and no letters outside ASCII"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        return "the host or the port of this URL is not valid"
    if "@" in parts.netloc:
        return "must not have a user or a password in it"
    if port == 0 or parts.netloc.endswith(":") or not _is_host(host, bracketed="[" in parts.netloc):
        return "the host or the port of this URL is not valid"
    if "#" in url and not fragment_allowed:
        return 'must not have a fragment ("#")'
    return parts


def _is_host(host: str, *, bracketed: bool) -> bool:
    if not bracketed:
        return _HOST_NAME.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
