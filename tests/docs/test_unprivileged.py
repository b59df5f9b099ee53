"""The gateway as the image runs it: not as root, the config unwritable, only the data directory its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.harness import COMMAND, LISTENING, until

NOBODY = 65_534
CONFIG = """\
server: {port: 0}
admin: {port: 0}
database: {url: "sqlite:///data/gateway.db"}
upstreams: {main: {targets: ["http://127.0.0.1:9"]}}
routes: [{path: /call, methods: [POST], upstream: main, cost: 1}]
"""


def user() -> int | None:
    """Nobody's number where we may become nobody and nobody may run this Python (a checkout in root's home is closed to
    them); else None: as we are, which then is mostly not root either."""
    if os.geteuid() != 0:
        return None
    try:
        tried = subprocess.run([COMMAND, "version"], user=NOBODY, group=NOBODY, capture_output=True, check=False)
    except PermissionError:
        return None
    return NOBODY if tried.returncode == 0 else None


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter, which pytest's own is not."""
    directory = Path(tempfile.mkdtemp(prefix="unprivileged-"))
    try:
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)


def test_it_serves_without_root_from_a_config_it_cannot_write(place):
    chosen = user()
    owner = os.geteuid() if chosen is None else chosen
    etc, data = place / "etc", place / "data"
    etc.mkdir()
    (etc / "config.yaml").write_text(CONFIG)
    (etc / "config.yaml").chmod(0o444)
    etc.chmod(0o555)
    data.mkdir(mode=0o700)
    os.chown(data, owner, -1)
    said = place / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [COMMAND, "serve", "-c", etc / "config.yaml", "--host", "127.0.0.1", "--workers", "2"],
            cwd=place,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **({} if chosen is None else {"user": chosen, "group": chosen, "extra_groups": []}),
        )
    try:
        port = until(lambda: (match := LISTENING.search(said.read_bytes())) and int(match[1]), seconds=30)
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        assert os.stat(data / "gateway.db").st_uid == owner
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert {entry.name for entry in place.iterdir()} == {"etc", "data", "said.txt"}
        assert [entry.name for entry in etc.iterdir()] == ["config.yaml"]
        assert b"Traceback" not in said.read_bytes(), sys.exc_info()
    finally:
        process.kill()
        process.wait()
        etc.chmod(0o755)
