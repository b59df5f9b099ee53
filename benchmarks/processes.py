"""Starts the servers of a benchmark, each pinned to one core, and leaves none behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 5.0


class Unusable(Exception):
    """The benchmark can't be run or its figures can't be trusted; the message tells what to do."""


def exit_status(run: Callable[[], None]) -> int:
    """Run a benchmark; how its command ends: 0 measured, 2 unusable, which is printed."""
    # An interrupted benchmark must stop its servers too: SIGTERM unwinds the stack as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run()
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server under test or in its support: a process group pinned to a core, its output kept in a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], output: Path) -> None:
        self.name = name
        self._process = process
        self._output = output

    def check_alive(self) -> None:
        """Raises Unusable with the end of the server's output when it has exited."""
        if self._process.poll() is not None:
            tail = self._output.read_text(errors="replace")[-2000:]
            raise Unusable(f"{self.name} exited with status {self._process.returncode}:\n{tail}")

    def cpu_seconds(self) -> float:
        """CPU time used so far by the process and its children, also by those that have come to their end."""
        family = [psutil.Process(self._process.pid)]
        family += family[0].children(recursive=True)
        used = 0.0
        for member in family:
            with suppress(psutil.NoSuchProcess):  # PostgreSQL's come and go; their parent counts what they used
                times = member.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
        return used

    def stop(self) -> None:
        """Ask the whole group to end, then make it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()


class Servers:
    """Every server that was started; leaving the `with` block stops them, last one first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._running:
            self._running.pop().stop()

    def start(
        self, name: str, command: Sequence[str], *, core: int | str, environment: Mapping[str, str] | None = None
    ) -> Server:
        """Start `command` on one core (or several: "0,1"), in a session of its own: children are stopped with it."""
        output = self._directory / f"{name}.log"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                ["taskset", "-c", str(core), *command],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        server = Server(name, process, output)
        self._running.append(server)
        return server


def wait_listening(server: Server, port: int) -> None:
    """Return once something accepts connections at the port."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        server.check_alive()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise Unusable(f"{server.name} did not listen on port {port} within {START_TIMEOUT_SECONDS:.0f} s")
