"""A stand-in of the sandbox as a process beside `gateway dev`."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from gateway.cli.failure import CommandFailed

LOOPBACK = "127.0.0.1"
_LOCAL_HOSTS = (LOOPBACK, "localhost")
_STOP_SECONDS = 5
_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


@contextmanager
def stand_in(module: str, *arguments: str, port: int = 0) -> Iterator[str]:
    """Run the module while the block runs; gives the address it listens on. A port that is taken is not insisted on."""
    process = _start(module, ["--host", LOOPBACK, "--port", str(port), "--or-any-port", *arguments])
    try:
        yield _read_address(process, module)
    finally:
        _stop(process)


def local_port(address: str) -> int | None:
    """The port of an http address on this machine; None where it is elsewhere."""
    parts = urlsplit(address)
    if parts.scheme != "http" or parts.hostname not in _LOCAL_HOSTS:
        return None
    return parts.port or 80


def _start(module: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
    """In a session of its own: Ctrl-C is for the gateway, whose running calls still need the service."""
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - there are no threads yet
    )


def _die_with_parent() -> None:
    """Also when the gateway is killed: nobody else would stop the service."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _read_address(process: subprocess.Popen[str], module: str) -> str:
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    if found is None:
        raise CommandFailed(f"the stand-in {module} does not start")
    return found[0]


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
