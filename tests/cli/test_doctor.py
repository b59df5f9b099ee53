"""gateway doctor: its lines, its exit codes, how long it takes, and what it never prints."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.cli.stand_in import stand_in
from gateway.database.engine import open_database
from gateway.doctor.diagnosis import fail, ok, warn
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY
from tests import preloaded
from tests.upstreams.hostile import blackhole_port, refusing_port

GATEWAY = [sys.executable, "-c", "from gateway.cli.main import main; main()"]
TOTAL_SECONDS = 10
START_SECONDS = 25
"""For Python and its imports on a busy machine."""
LINE = re.compile(r"(ok  |warn|FAIL)  (\S.*\S) +— (\S.*)")


def doctor(directory: Path, config: dict, *arguments: str) -> subprocess.CompletedProcess[str]:
    file = directory / "config.yaml"
    database = {"url": f"sqlite:///{directory / 'gateway.db'}"}
    file.write_text(json.dumps({"server": {"port": 0}, "admin": None, "database": database, **config}))
    return preloaded.run(
        ["gateway", "doctor", "-c", str(file), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def unkey(address: str, **section: str) -> dict:
    return {"provider": "unkey", "unkey": {"api_id": API_ID, "root_key": ROOT_KEY, "base_url": address, **section}}


def upstream(*targets: str, **section: object) -> dict:
    return {"a": {"targets": targets, **section}}


def test_a_line_for_each_thing_columns_aligned(gateway):
    found = [ok("short", "fine"), warn("a longer name", "look"), fail("x", "mend \x1b[31mit\n")]
    outcome = gateway("doctor", examine=lambda _config, _on_progress: found)
    assert outcome.code == 1
    assert outcome.err == ""
    assert outcome.out.splitlines() == [
        "ok    config         — config.yaml is fine (3 routes, 1 upstream, 0 packs)",
        "ok    short          — fine",
        "warn  a longer name  — look",
        "FAIL  x              — mend \\u001b[31mit\\u000a",
    ]


def test_a_warning_is_no_failure(gateway):
    outcome = gateway("doctor", "--json", examine=lambda _config, _on_progress: [warn("w", "look")])
    assert outcome.code == 0
    assert outcome.document["ok"] is True
    assert outcome.document["checks"][1] == {"state": "warn", "what": "w", "text": "look"}


def test_a_failure_is_one_in_json_too(gateway):
    outcome = gateway("doctor", "--json", examine=lambda _config, _on_progress: [fail("f", "mend")])
    assert (outcome.code, outcome.document["ok"]) == (1, False)
    assert outcome.document["checks"][1]["state"] == "fail"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_broken_config_is_told_as_by_check(gateway, config_file, arguments):
    config_file.write_text("server: {prot: 1}\n")
    checked, examined = gateway("check", *arguments), gateway("doctor", *arguments, examine=None)
    assert examined == checked
    assert examined.code == 2


def test_what_works_is_exit_code_0_and_nothing_is_left_behind(tmp_path):
    with stand_in("gateway.sandbox.persona") as personas, stand_in("gateway.sandbox.unkey") as address:
        done = doctor(tmp_path, {"credits": unkey(address), "upstreams": upstream(personas)})
    assert (done.returncode, done.stderr) == (0, "")
    found = [LINE.fullmatch(line).groups() for line in done.stdout.splitlines()]
    assert len({line.index(" — ") for line in done.stdout.splitlines()}) == 1
    assert {state.strip() for state, _, _ in found} == {"ok", "warn"}
    what = " ".join(name for _, name, _ in found)
    for part in ("config", "database", "free space", address, "root_key", personas):
        assert part in what
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


def test_what_fails_is_exit_code_1(tmp_path):
    with refusing_port() as port:
        done = doctor(tmp_path, {"upstreams": upstream(f"http://127.0.0.1:{port}")}, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert [check["what"] for check in document["checks"] if check["state"] == "fail"] == [
        f"upstream a: http://127.0.0.1:{port}"
    ]


def test_no_secret_is_printed_whatever_is_wrong_with_it(tmp_path):
    secrets = {
        "root_key": "unkey_3ZrootSECRETroot",
        "admin_root_key": "adminSECRETwithout a shape",
        "canary_key": "gw_canarySECRETcanary",
    }
    stripe = {"secret_key": "sk_test_SECRETkey", "webhook_secret": "SECRETwebhook"}
    stripe["publishable_key"] = "pk_test_SECRETpub"
    billing = {"success_url": "https://a.test/", "cancel_url": "https://a.test/", "stripe": stripe}
    with stand_in("gateway.sandbox.unkey") as address:
        config = {"credits": unkey(address, **secrets), "billing": billing}
        for arguments in ((), ("--json",)):
            done = doctor(tmp_path, config, *arguments)
            assert done.returncode == 1
            assert "SECRET" not in done.stdout + done.stderr
            assert "root_key" in done.stdout


def test_whatever_hangs_it_ends_in_time_with_a_word_on_each(tmp_path):
    open_database(f"sqlite:///{tmp_path / 'gateway.db'}").close()
    blocker = sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with blackhole_port() as port, socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"127.0.0.1:{silent.getsockname()[1]}"
        targets = (f"http://127.0.0.1:{port}", f"https://{mute}")
        config = {"credits": unkey(f"http://{mute}"), "upstreams": upstream(*targets, connect_timeout_seconds=600)}
        started = time.monotonic()
        done = doctor(tmp_path, config, "--json")
        seconds = time.monotonic() - started
    blocker.close()
    assert seconds < TOTAL_SECONDS + START_SECONDS
    assert done.stderr == ""
    failed = [check["what"] for check in json.loads(done.stdout)["checks"] if check["state"] == "fail"]
    assert failed == [
        "database: write lock",
        f"unkey: http://{mute}",
        *(f"upstream a: {target}" for target in targets),
    ]


def test_whoever_waits_at_a_terminal_sees_what_for(tmp_path):
    (tmp_path / "config.yaml").write_text('upstreams: {personas: {targets: ["http://127.0.0.1:9"]}}')
    ours, theirs = pty.openpty()
    with subprocess.Popen([*GATEWAY, "doctor"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 65_536):
                said += chunk
        except OSError:  # so a terminal ends on Linux
            pass
        out = process.stdout.read()
    os.close(ours)
    assert b"examining database, credits, upstream personas" in said
    assert said.endswith(b"\r\x1b[K"), "the line is gone in the end"
    assert b"\x1b" not in out
