"""`gateway dev` as the README tells a newcomer to run it, on free ports, and what it prints."""

from __future__ import annotations

import itertools
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.e2e.harness import COMMAND, START_SECONDS, until

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Line:
    """A line of curl, as it was printed to be pasted."""

    text: str

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.text)[1:]

    @property
    def url(self) -> str:
        (url,) = (argument for argument in self.arguments if urlsplit(argument).scheme == "http")
        return url

    def paste(self) -> httpx.Response:
        """Does what curl would; not every machine has one."""
        arguments = self.arguments
        flags = {flag: value for flag, value in itertools.pairwise(arguments) if flag in ("-X", "-d")}
        headers = dict(value.split(": ", 1) for flag, value in itertools.pairwise(arguments) if flag == "-H")
        return httpx.request(flags["-X"], self.url, headers=headers, content=flags.get("-d"), trust_env=False)


@dataclass(frozen=True)
class Dev:
    """A running `gateway dev`."""

    process: subprocess.Popen[bytes]
    text: str
    """What it has printed."""

    @property
    def key(self) -> str:
        (key,) = re.findall(r"^API_KEY=(gw_\w+)$", self.text, re.MULTILINE)
        return str(key)

    @property
    def lines(self) -> list[Line]:
        return [Line(line) for line in re.findall(r"^curl .*$", self.text, re.MULTILINE)]

    def address(self, name: str) -> str:
        """Of the gateway or of a stand-in."""
        (address,) = re.findall(rf"^{name} +(http://\S+)", self.text, re.MULTILINE)
        return str(address)

    def ask(self, path: str) -> dict:
        """What the gateway tells the key that was printed."""
        url = self.address("gateway") + path
        answer = httpx.get(url, headers={"Authorization": f"Bearer {self.key}"}, trust_env=False)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@contextmanager
def gateway_dev(directory: Path, more: str = "") -> Iterator[Dev]:
    """The config.yaml of this repository in that directory, its ports free ones, and `more` at its end."""
    config = (ROOT / "config.yaml").read_text()
    moved = config.replace("port: 8080", "port: 0").replace("127.0.0.1:9000", f"127.0.0.1:{free_port()}")
    assert moved.count("port: 0") == 1
    (directory / "config.yaml").write_text(f"{moved}\nadmin: {{port: 0}}\n{more}")
    said = directory / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [COMMAND, "dev"], cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        text = until(lambda: "Ctrl-C" in said.read_text() and said.read_text(), START_SECONDS)
        yield Dev(process, text)
    finally:
        process.kill()
        process.wait()
