"""The sandbox's persona service as a process beside `gateway dev`."""

from __future__ import annotations

import ctypes
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.cli.failure import CommandFailed

if TYPE_CHECKING:
    from gateway.config.tree import Config

LOOPBACK = "127.0.0.1"
_LOCAL_HOSTS = (LOOPBACK, "localhost")
_STOP_SECONDS = 5
_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


@contextmanager
def persona_service(config: Config) -> Iterator[tuple[Config, str | None]]:
    """Run the service where the config's first upstream is expected.

    Gives the config to serve, its target moved to a free port where the expected one is taken, and the service's
    address; None (and the config as it was) where the first upstream is not on this machine.
    """
    upstream = next(iter(config.upstreams), None)
    wanted = _local_port(config.upstreams[upstream].targets[0]) if upstream is not None else None
    if upstream is None or wanted is None:
        yield config, None
        return
    process = _start(wanted if _is_free(wanted) else 0)
    try:
        address = _read_address(process)
        yield _moved(config, upstream, address), address
    finally:
        _stop(process)


def _local_port(target: str) -> int | None:
    parts = urlsplit(target)
    if parts.scheme != "http" or parts.hostname not in _LOCAL_HOSTS:
        return None
    return parts.port or 80


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _start(port: int) -> subprocess.Popen[str]:
    """In a session of its own: Ctrl-C is for the gateway, whose running calls still need the service."""
    command = [sys.executable, "-m", "gateway.sandbox.persona", "--host", LOOPBACK, "--port", str(port)]
    return subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - there are no threads yet
    )


def _die_with_parent() -> None:
    """Also when the gateway is killed: nobody else would stop the service."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _read_address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    if found is None:
        raise CommandFailed("the sandbox's persona service does not start")
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


def _moved(config: Config, upstream: str, address: str) -> Config:
    """The config with the service's address as the upstream's only target, under the path that it had."""
    section = config.upstreams[upstream]
    targets = (address + urlsplit(section.targets[0]).path,)
    upstreams = {**config.upstreams, upstream: section.model_copy(update={"targets": targets})}
    return config.model_copy(update={"upstreams": upstreams})
