"""The listening sockets: bound once, before any worker exists, and handed down to all of them."""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.tree import Config

BACKLOG = 2_048
BIND_PATIENCE_SECONDS = 3.0
"""A predecessor that is just ending may still hold the port."""
RETRY_SECONDS = 0.1


class CannotListen(Exception):
    """An address can't be listened on; the text says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the gateway really listens (a configured port 0 is resolved), as URLs."""

    server: str
    admin: str | None


@dataclass(frozen=True, slots=True)
class Sockets:
    """The listening sockets of callers and, if configured, of ops."""

    server: socket.socket
    admin: socket.socket | None

    @classmethod
    def bind(cls, config: Config, *, patience_seconds: float = BIND_PATIENCE_SECONDS) -> Sockets:
        """Raises CannotListen."""
        server = listen(config.server.host, config.server.port, patience_seconds=patience_seconds)
        if config.admin is None:
            return cls(server, None)
        try:
            admin = listen(config.admin.host, config.admin.port, patience_seconds=patience_seconds)
        except CannotListen:
            server.close()
            raise
        return cls(server, admin)

    @property
    def addresses(self) -> Addresses:
        return Addresses(_url(self.server), None if self.admin is None else _url(self.admin))

    def close(self) -> None:
        self.server.close()
        if self.admin is not None:
            self.admin.close()


def listen(host: str, port: int, *, patience_seconds: float = BIND_PATIENCE_SECONDS) -> socket.socket:
    """A listening socket. Waits up to `patience_seconds` for a port that is in use; raises CannotListen."""
    give_up_at = time.monotonic() + patience_seconds
    while True:
        try:
            return _listen_once(host, port)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            if not taken or time.monotonic() >= give_up_at:
                hint = ": another process listens there; stop it or choose another port" if taken else f": {error}"
                raise CannotListen(f"can't listen on {host} port {port}{hint}") from error
        time.sleep(RETRY_SECONDS)


def _listen_once(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
