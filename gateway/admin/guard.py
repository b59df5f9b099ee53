"""Keeps web pages away from the admin listener. It asks nobody for a password: whoever reaches it is ops.

A page in ops' browser reaches it too, on 127.0.0.1. It must not read (a name of its own that it lets resolve to
127.0.0.1: DNS rebinding; the Host field then tells) and must not change anything (a form or a fetch to 127.0.0.1; the
browser then says Origin or Sec-Fetch-Site). No answer has CORS fields, so a page of another origin can't read one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gateway.errors import Forbidden

if TYPE_CHECKING:
    from starlette.types import Scope


class Guard:
    """`hosts` are names by which ops ask for it, besides addresses and localhost."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._names = {"localhost", *(host.lower().rstrip(".") for host in hosts)}

    def check(self, scope: Scope) -> None:
        """Raises Forbidden."""
        fields = dict(scope["headers"])
        host = _name_of(fields.get(b"host", b"").decode("latin-1"))
        if host and host not in self._names and not _is_address(host):
            raise Forbidden("The admin listener is not known by that name: see admin.hosts in the config.")
        if scope["method"] not in ("GET", "HEAD"):
            site = fields.get(b"sec-fetch-site", b"none")
            if b"origin" in fields or site not in (b"none", b"same-origin"):
                raise Forbidden("Web pages may not change anything here.")


def _name_of(authority: str) -> str:
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0].lower().rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
