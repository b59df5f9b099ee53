"""A stand-in as a process of its own: it says where it listens and ends when it is told to."""

from __future__ import annotations

import argparse
import asyncio
import errno
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

Started = TypeVar("Started")


class Closable(Protocol):
    """A stand-in that listens."""

    async def aclose(self) -> None: ...


def add_address(parser: argparse.ArgumentParser, port: int) -> None:
    """The options that say where to listen."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=int, default=port, help=f"TCP port, 0 for a free one (default {port})")
    add("--or-any-port", action="store_true", help="take a free port where that one is taken")


async def listen(start: Callable[[str, int], Awaitable[Started]], options: argparse.Namespace) -> Started:
    """What `start` gives, at the address of the options.

    Only who binds knows whether a port is free: whoever looks first may be overtaken by another process.
    """
    try:
        return await start(options.host, options.port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not options.or_any_port:
            raise
    return await start(options.host, 0)


async def serve_until_stopped(server: Closable, where: str) -> None:
    """Write the line that tells where to standard output, and close the server at SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sys.stdout.write(f"{where}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.aclose()
