"""A target in a process of its own, to be killed (SIGKILL), hung (SIGSTOP) and made to fail.

What it is told and what it has counted are in a file that both sides map: they outlive the process.
"""

from __future__ import annotations

import asyncio
import mmap
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Self

COUNT = struct.Struct("<Q")
COUNT_AT = 8
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Target: %d\r\n\r\nok"
FAILED = b"HTTP/1.1 500 Broken\r\nContent-Length: 2\r\nX-Target: %d\r\n\r\nno"


class Target:
    """The test's side. `fails_half` may be set at any time; `arrived` counts requests, over all its lives."""

    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._file = directory / f"target-{port}"
        self._file.write_bytes(bytes(16))
        self._map = _mapped(self._file)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._map.close()

    @property
    def arrived(self) -> int:
        return int(COUNT.unpack_from(self._map, COUNT_AT)[0])

    def fail_half(self, fails: bool) -> None:
        self._map[0] = int(fails)

    def start(self) -> None:
        """Returns when it listens."""
        command = [sys.executable, "-m", "tests.e2e.target", str(self.port), str(self._file)]
        self._process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"listening\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def hang(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class _Connection(asyncio.Protocol):
    def __init__(self, port: int, shared: mmap.mmap) -> None:
        self._port = port
        self._shared = shared

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        # The gateway writes a small request at once, and the next when it has been answered.
        arrived = COUNT.unpack_from(self._shared, COUNT_AT)[0] + 1
        COUNT.pack_into(self._shared, COUNT_AT, arrived)
        self._transport.write((FAILED if self._shared[0] and arrived % 2 else FINE) % self._port)


def _mapped(file: Path) -> mmap.mmap:
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), 16)


async def _serve(port: int, file: Path) -> None:
    shared = _mapped(file)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(port, shared), "127.0.0.1", port)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
