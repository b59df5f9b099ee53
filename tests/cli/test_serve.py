"""gateway serve and gateway dev, as processes: what they print, what they serve, what they leave behind."""

from __future__ import annotations

import json
import os
import re
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest

from gateway.cli.failure import CommandFailed
from gateway.cli.main import run
from gateway.cli.serve import with_server
from gateway.cli.stand_in import stand_in
from gateway.config.load import parse_config
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY
from tests import preloaded

GATEWAY = [sys.executable, "-c", "from gateway.cli.main import main; main()"]
PATIENCE_SECONDS = 60


class Running:
    """A gateway process; `line` waits for a line of its output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.seen = b""

    def line(self, pattern: str, stream: str = "stdout") -> str:
        pipe = getattr(self.process, stream)
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while (found := re.search(pattern.encode(), self.seen)) is None:
                assert selector.select(max(0, give_up_at - time.monotonic())), f"no {pattern} in {self.seen!r}"
                chunk = pipe.read1(65_536)
                assert chunk, f"it ended with {self.seen!r} and {self.process.stderr.read()!r}"
                self.seen += chunk
        return found[1].decode()

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def running(*arguments: str, cwd, **environ: str):
    process = preloaded.Popen(
        ["gateway", *arguments],
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with process:
            try:
                yield Running(process)
            finally:
                for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
                    child.kill()
                process.kill()
    finally:
        process.wait()


@contextmanager
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_command_line_wins_over_the_config():
    config = with_server(parse_config(b"server: {workers: 2}\n", {}), host="::1", port=0, workers=None)
    assert (config.server.host, config.server.port, config.server.workers) == ("::1", 0, 2)


def test_what_the_command_line_breaks_is_told():
    config = parse_config(b"", {})
    with pytest.raises(CommandFailed, match=r"server.port: must not be the same as admin.port, 9464"):
        with_server(config, host=None, port=9464)
    with pytest.raises(CommandFailed, match="--host"):
        with_server(config, host="", port=None)


@pytest.mark.parametrize("arguments", [["--port", "65536"], ["--workers", "0"], ["--workers", "257"], ["--port", "x"]])
def test_impossible_options_are_refused_before_anything_starts(gateway, provider, arguments):
    outcome = gateway("serve", *arguments, serve=None)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1


def test_serve_gives_the_servers_exit_code(gateway):
    served = []
    assert gateway("serve", "--port", "7", serve=lambda config, *_: served.append(config) or 3).code == 3
    assert served[0].server.port == 7


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_answers_and_stops_with_exit_code_0(config_file, workers):
    with running("serve", "--workers", workers, cwd=config_file.parent) as gateway:
        address = gateway.line(r"listening on (http://127\.0\.0\.1:\d+)", "stderr")
        assert httpx.get(f"{address}/healthz").status_code == 200
        assert httpx.post(f"{address}/v1/things").status_code == 401
        assert gateway.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("command", ["serve", "dev"])
def test_a_taken_port_is_told_in_one_line_with_what_to_do(config_file, command):
    with taken_port() as port:
        done = preloaded.run(
            ["gateway", command, "--port", str(port)],
            cwd=config_file.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "choose another" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "API_KEY" not in done.stdout


def test_dev_sells_a_call_and_stops_everything_on_ctrl_c(config_file):
    with taken_port() as port:
        # Someone sits where the upstream is expected: the stand-in moves aside.
        route = "{path: /v1/personas, methods: [POST], upstream: a, cost: 5}"
        config_file.write_text(
            f"server: {{port: 0}}\nadmin: null\nroutes: [{route}]\n"
            f"upstreams: {{a: {{targets: ['http://127.0.0.1:{port}']}}}}\n"
        )
        with running("dev", cwd=config_file.parent) as gateway:
            key = gateway.line(r"\nAPI_KEY=(gw_\w+)\n")
            address = gateway.line(r"(?m)^gateway +(http://\S+)\n")
            curl = shlex.split(gateway.line(r"\n(curl .*)\n"))
            response = httpx.post(f"{address}/v1/personas", headers={"x-api-key": key}, json={"seed": 7})
            assert response.status_code == 200, response.text
            assert response.headers["x-credits-cost"] == "5"
            assert response.headers["x-credits-remaining"] == "95"
            assert f"{address}/v1/personas" in curl
            assert f"Authorization: Bearer {key}" in curl
            assert json.loads(curl[-1])
            children = psutil.Process(gateway.process.pid).children(recursive=True)
            assert children, "the persona service is a process of its own"
            assert gateway.stop(signal.SIGINT) == 0
            assert psutil.wait_procs(children, timeout=30)[1] == []


SELLS = """\
server: {port: 0}
admin: null
credits: {signup_credits: 12%s}
upstreams: {a: {targets: ["http://127.0.0.1:9"]}}
routes: [{path: /v1/personas, methods: [POST], upstream: a, cost: 5}]
"""


def call(gateway: Running) -> httpx.Response:
    """A call of the key that `dev` has printed."""
    key = gateway.line(r"\nAPI_KEY=(gw_\w+)\n")
    address = gateway.line(r"(?m)^gateway +(http://\S+)\n")
    return httpx.post(f"{address}/v1/personas", headers={"x-api-key": key}, json={"seed": 7})


def test_dev_with_unkey_sells_until_the_credits_are_gone_and_leaves_nothing_behind(config_file, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    config_file.write_text(SELLS % "")
    with running("dev", "--provider", "unkey", cwd=config_file.parent, TMPDIR=str(scratch)) as gateway:
        for remaining in ("7", "2"):
            response = call(gateway)
            assert response.status_code == 200, response.text
            assert response.headers["x-credits-cost"] == "5"
            assert response.headers["x-credits-remaining"] == remaining
        refused = call(gateway)
        assert (refused.status_code, refused.json()["available"]) == (402, 2)
        unkey = gateway.line(r"(?m)^unkey +(http://\S+) \(stand-in\)\n")
        verified = [call for call in httpx.get(f"{unkey}/_sandbox/requests").json() if call["call"] == "keys.verifyKey"]
        assert len(verified) >= 3, "the calls were verified there"
        children = psutil.Process(gateway.process.pid).children(recursive=True)
        assert len(children) == 3, "all stand-ins are processes of their own"
        assert gateway.stop(signal.SIGINT) == 0
        assert psutil.wait_procs(children, timeout=30)[1] == []
    assert list(scratch.iterdir()) == [], "the temporary database is gone"
    assert [entry.name for entry in config_file.parent.iterdir()] == ["config.yaml"], "the config's was never made"


def test_dev_uses_the_unkey_of_the_config_unless_told_otherwise(config_file, tmp_path_factory):
    with stand_in("gateway.sandbox.unkey") as address:
        unkey = f", provider: unkey, unkey: {{api_id: {API_ID}, root_key: {ROOT_KEY}, base_url: '{address}'}}"
        config_file.write_text(SELLS % unkey)
        with running("dev", cwd=config_file.parent) as gateway:
            assert call(gateway).headers["x-credits-remaining"] == "7"
            assert b"unkey" not in gateway.seen, "no stand-in beside a real one"
        assert (config_file.parent / "data/gateway.db").exists()
        asked = len(httpx.get(f"{address}/_sandbox/requests").json())
        assert asked
        with running("dev", "--provider", "local", cwd=config_file.parent) as gateway:
            assert call(gateway).headers["x-credits-remaining"] == "7"
        assert len(httpx.get(f"{address}/_sandbox/requests").json()) == asked, "Unkey is not asked"


@pytest.mark.parametrize("options", [[], ["--provider", "unkey"]])
def test_the_stand_ins_end_with_a_gateway_that_is_killed(config_file, options):
    with running("dev", *options, cwd=config_file.parent) as gateway:
        gateway.line(r"\n(API_KEY)=")
        children = psutil.Process(gateway.process.pid).children(recursive=True)
        assert len(children) == 2 + len(options) // 2
        gateway.stop(signal.SIGKILL)
        assert psutil.wait_procs(children, timeout=30)[1] == []


def test_a_database_that_cannot_be_opened_is_one_line(config_file):
    (config_file.parent / "data").write_text("a file where the folder should be")
    for command in (["keys", "list"], ["dev"]):
        done = preloaded.run(["gateway", *command], cwd=config_file.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("gateway: the database can't be opened: data/gateway.db: ")
        assert done.stderr.count("\n") == 1


def test_keys_of_the_command_line_work_in_the_real_database(config_file, monkeypatch, capsys):
    def process(*arguments: str):
        done = preloaded.run(["gateway", *arguments, "--json"], cwd=config_file.parent, capture_output=True, check=True)
        return json.loads(done.stdout)

    def gateway(*arguments: str):
        """In this process: to start one takes much longer than what it does."""
        assert run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    monkeypatch.chdir(config_file.parent)
    key_id = process("keys", "create", "--user", "ann", "--credits", "7")["key_id"]
    granted = gateway("credits", "grant", key_id, "5", "--reason", "x", "--reference", "r")
    assert gateway("credits", "grant", key_id, "5", "--reason", "x", "--reference", "r")["id"] == granted["id"]
    assert gateway("credits", "show", key_id)["available"] == 12
    assert [entry["amount"] for entry in gateway("credits", "history", key_id)] == [5, 7]
    assert gateway("keys", "rotate", key_id)["key_id"] == key_id
    assert gateway("keys", "revoke", key_id)["revoked"]
    assert [key["revoked_at"] is None for key in process("keys", "list")] == [False]
