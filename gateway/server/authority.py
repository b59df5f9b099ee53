"""The authority of a request: what may stand in Host and in an absolute target (RFC 3986 section 3.2)."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address

from gateway.errors import BadRequest

NAME_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
"""RFC 3986 allows sub-delims and percent-encoding in a name too. No real host has them, and they are what attacks on
whoever builds a URL from Host are made of (CVE-2026-48710)."""

PORT_MAX = 65_535


@lru_cache(maxsize=512)
def check_authority(authority: bytes) -> None:
    """Raises BadRequest unless `authority` is `name`, `name:port`, `[v6]` or `[v6]:port`.

    Remembered because nearly every request names the same few hosts.
    """
    host, port = _split(authority)
    if not host or (port and not (port.isdigit() and len(port) <= 5 and int(port) <= PORT_MAX)):
        raise BadRequest("The Host is not valid.")


def _split(authority: bytes) -> tuple[bytes, bytes]:
    if authority.startswith(b"["):
        address, bracket, port = authority[1:].partition(b"]")
        if not bracket or not _is_ipv6(address) or (port and not port.startswith(b":")):
            return b"", b""
        return address, port[1:]
    host, _, port = authority.partition(b":")
    return (b"" if host.translate(None, NAME_BYTES) else host), port


def _is_ipv6(address: bytes) -> bool:
    try:
        IPv6Address(address.decode("ascii"))
    except (AddressValueError, UnicodeDecodeError):
        return False
    return b"%" not in address
