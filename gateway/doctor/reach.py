"""Whether a base URL can be connected to: name, TCP, TLS and certificate, as the gateway itself would connect."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from gateway.config.tree import TlsSection
from gateway.database.worker import Worker
from gateway.upstreams.targets import Target
from gateway.upstreams.tls import client_context

NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNEXPECTED_MESSAGE", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})

Address = tuple[Any, ...]
Resolve = Callable[[str, int], list[Address]]


class OutOfReach(Exception):
    """It can't be connected to. The message says why and what to do, and names no secret."""


def resolve(host: str, port: int) -> list[Address]:
    """The socket addresses of a name. Raises socket.gaierror."""
    return [found[4] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


async def reach(url: str, tls: TlsSection, timeout_seconds: float, resolve: Resolve = resolve) -> float:
    """Connect, and hang up at once: the seconds it took, name included. Raises OutOfReach within `timeout_seconds`."""
    loop = asyncio.get_running_loop()
    target = Target(url)
    started = loop.time()
    context = _context(tls) if target.tls else None
    doing = "the name is not resolved"
    try:
        async with asyncio.timeout(timeout_seconds):
            addresses = await _resolve(target, resolve)
            doing = "no connection"
            await _connect_first(addresses, context, tls.server_name or target.host)
    except TimeoutError:
        raise OutOfReach(
            f"{doing} within {timeout_seconds:g} s: see whether it is up, and what a firewall drops"
        ) from None
    except OSError as error:
        raise OutOfReach(_explained(error)) from error
    return loop.time() - started


def shown_ms(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))} ms"


async def _resolve(target: Target, resolve: Resolve) -> list[Address]:
    # In a daemon's thread: one that hangs in the resolver must not keep the command from ending.
    return await Worker("resolver").run(lambda: resolve(target.host, target.port))


async def _connect_first(addresses: list[Address], context: ssl.SSLContext | None, name: str) -> None:
    """To the first address that takes it. Raises what the last one raised."""
    failure = OSError("the name has no address")
    for address in addresses:
        try:
            await _connect(address, context, name)
        except OSError as error:
            failure = error
        else:
            return
    raise failure


async def _connect(address: Address, context: ssl.SSLContext | None, name: str) -> None:
    transport, _ = await asyncio.get_running_loop().create_connection(
        asyncio.Protocol, address[0], address[1], ssl=context, server_hostname=name if context else None
    )
    transport.abort()


def _context(tls: TlsSection) -> ssl.SSLContext:
    try:
        context = client_context(tls)
    except OSError as error:
        raise OutOfReach(f"tls.ca_file can't be read: {error.strerror or error}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _explained(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message} (tls.ca_file, tls.server_name)"
    if isinstance(error, ssl.SSLError) and error.reason in NOT_TLS:
        return "it does not speak TLS: http:// instead of https://?"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return "the name can't be resolved: see its spelling and the DNS"
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused: nothing listens there"
    return f"no connection: {error.strerror or error}"
