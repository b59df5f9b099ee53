"""A gateway as its operators run it: the installed command, in a process group of its own, on free ports.

`TORTURE=1` in the environment asks for the full counts; without it the same tests run with counts that fit in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from gateway.app import open_provider
from gateway.config.load import load_config
from gateway.credits.provider import NO_CHANGES, CapChanges
from tests import preloaded
from tests.database.template import prepare_database

TORTURE = bool(os.environ.get("TORTURE"))
COMMAND = Path(sys.executable).with_name("gateway")
START_SECONDS = 60
LISTENING = re.compile(rb"listening on http://127\.0\.0\.1:(\d+), metrics on http://127\.0\.0\.1:(\d+)/metrics")
OPEN_FILES_WANTED = 8_192


def count(small: int, full: int) -> int:
    """How often, in `make test` and in `make torture`."""
    return full if TORTURE else small


def allow_many_sockets() -> None:
    """Raise this process's soft limit of open files, which the processes it starts inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_WANTED:
        wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(OPEN_FILES_WANTED, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def settings(directory: Path, target: str, **sections: Any) -> dict[str, Any]:
    """A config with every port free, one upstream, and `POST /call/{what}` at 1 credit unless `sections` say more."""
    upstream = {"targets": [target], **sections.pop("upstream", {})}
    config: dict[str, Any] = {
        "server": {"port": 0, **sections.pop("server", {})},
        "admin": {"port": 0},
        "database": {"url": f"sqlite:///{directory / 'gateway.db'}"},
        "upstreams": {"main": upstream, **sections.pop("upstreams", {})},
        "routes": [{"path": "/call/{what}", "methods": ["POST"], "upstream": "main", "cost": 1}],
    }
    return {**config, **sections}


class Gateway:
    """`gateway serve` (or another command) with a config. Each start takes new ports; one database for all starts."""

    def __init__(self, directory: Path, config: Mapping[str, Any], *, name: str = "gateway") -> None:
        self.directory = directory
        self.database = directory / "gateway.db"
        if config.get("database", {}).get("url") == f"sqlite:///{self.database}":
            prepare_database(self.database)
        self.config_file = directory / f"{name}.yaml"
        self.config_file.write_text(json.dumps(config))
        self.errors_file = directory / f"{name}.stderr"
        self.errors_file.touch()
        self.process: subprocess.Popen[bytes] | None = None
        self.port = self.admin_port = 0
        self._groups: list[int] = []

    def create_key(
        self,
        credits: int | None,
        user: str = "user-1",
        *,
        permissions: Sequence[str] = (),
        spend_caps: CapChanges = NO_CHANGES,
    ) -> tuple[str, str]:
        """A new key: its secret and its key_id."""

        async def create() -> tuple[str, str]:
            async with open_provider(load_config(self.config_file, {})) as provider:
                secret, key = await provider.create(
                    user, credits=credits, permissions=permissions, spend_caps=spend_caps
                )
                return secret, key.key_id

        return asyncio.run(create())

    def start(self) -> Gateway:
        """Start it and wait until it says that it listens."""
        begin = self.errors_file.stat().st_size
        with self.errors_file.open("ab") as errors:
            self.process = preloaded.Popen(
                [COMMAND, "serve", "-c", self.config_file],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self._groups.append(self.process.pid)
        found = until(lambda: LISTENING.search(self._said(begin)) or self.process.poll() is not None, START_SECONDS)
        assert isinstance(found, re.Match), self.errors
        self.port, self.admin_port = int(found[1]), int(found[2])
        return self

    def _said(self, begin: int) -> bytes:
        return self.errors_file.read_bytes()[begin:]

    @property
    def errors(self) -> str:
        """All that it wrote, over all starts."""
        return self.errors_file.read_text(errors="replace")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rpartition(" ")[2]) for line in found if all(label in line for label in wanted))

    def workers(self) -> list[psutil.Process]:
        """The living processes under the supervisor; none where one process does it all."""
        assert self.process is not None
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill_group(self) -> None:
        """kill -9 the process and its workers at once."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_main(self) -> None:
        """kill -9 the process alone: its workers have to notice."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = 30) -> int:
        """Its exit code."""
        assert self.process is not None
        return self.process.wait(seconds)

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def left_over(self) -> list[int]:
        """Living processes of any of its starts."""
        return [
            process.pid
            for process in psutil.process_iter(["status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE and _group_of(process.pid) in self._groups
        ]

    def close(self) -> None:
        """Nothing of it is left alive."""
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


@contextlib.contextmanager
def gateway(directory: Path, config: Mapping[str, Any], *, name: str = "gateway") -> Iterator[Gateway]:
    """A gateway that is not yet started, and that is gone at the end whatever happens."""
    made = Gateway(directory, config, name=name)
    try:
        yield made
    finally:
        made.close()


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Poll until `condition()` is true; its value."""
    give_up_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.01)
    return value


async def until_async(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """The same on an event loop."""
    give_up_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up_at, "it did not happen in time"
        await asyncio.sleep(0.01)
    return value
