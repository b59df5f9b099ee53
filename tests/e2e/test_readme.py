"""What the README promises a newcomer: one command, a key, a line to paste, and a persona for 5 credits."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.e2e.harness import COMMAND, until

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_gateway_dev_prints_a_key_and_a_call_that_works(tmp_path):
    config = (ROOT / "config.yaml").read_text()
    moved = config.replace("port: 8080", "port: 0").replace("127.0.0.1:9000", f"127.0.0.1:{free_port()}")
    assert moved.count("port: 0") == 1
    (tmp_path / "config.yaml").write_text(moved + "\nadmin: {port: 0}\n")
    said = tmp_path / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [COMMAND, "dev"], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        text = until(lambda: "Ctrl-C" in said.read_text() and said.read_text(), seconds=30)
        (key,) = re.findall(r"^API_KEY=(gw_\w+)$", text, re.MULTILINE)
        (line,) = re.findall(r"^curl .*$", text, re.MULTILINE)
        _, *arguments = shlex.split(line)
        (url,) = (argument for argument in arguments if urlsplit(argument).scheme == "http")
        headers = dict(value.split(": ", 1) for flag, value in itertools.pairwise(arguments) if flag == "-H")
        assert arguments[arguments.index("-X") + 1] == "POST"
        assert urlsplit(url).path == "/v1/personas"
        assert headers["Authorization"] == f"Bearer {key}"
        body = arguments[arguments.index("-d") + 1]
        answer = httpx.post(url, headers=headers, content=body, trust_env=False)
        assert answer.status_code == 200
        assert answer.headers["X-Credits-Cost"] == "5"
        assert answer.headers["X-Credits-Remaining"] == "95"
        assert json.loads(answer.content)
        assert (tmp_path / "data" / "gateway.db").exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
