"""A stand-in as a process of its own: it says where it listens and ends when it is told to."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Protocol


class Closable(Protocol):
    """A stand-in that listens."""

    async def aclose(self) -> None: ...


async def serve_until_stopped(server: Closable, where: str) -> None:
    """Write the line that tells where to standard output, and close the server at SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sys.stdout.write(f"{where}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.aclose()
