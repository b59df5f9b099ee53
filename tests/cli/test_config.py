"""gateway check, schema and routes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.config.schema import editor_schema_text
from tests import preloaded

GATEWAY = [sys.executable, "-c", "from gateway.cli.main import main; main()"]
QUICK = """
import sys
from gateway.cli.main import run
for arguments in (['--help'], ['check'], ['routes'], ['keys', 'create', '--help']):
    assert run(arguments) == 0
heavy = {'sqlalchemy', 'alembic', 'uvicorn', 'starlette', 'httpx', 'asyncio.runners', 'rich'} & set(sys.modules)
assert not heavy, heavy
"""
BROKEN = "server: {prot: 1}\nroutes:\n  - {path: /p, methods: [GET], upstream: a, cost: 1}\n"


def process(*arguments: str, cwd: Path, **more) -> subprocess.CompletedProcess[str]:
    return preloaded.run(
        ["gateway", *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False, **more
    )


def test_a_broken_config_is_exit_code_2_and_a_line_for_each_problem(tmp_path):
    (tmp_path / "config.yaml").write_text(BROKEN)
    done = process("check", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        'config.yaml:1:10: server.prot: unknown key; did you mean "port"?',
        'config.yaml:3:42: routes[0].upstream: there is no such upstream: "a"',
        "config.yaml: 2 problems",
    ]


def test_a_fine_config_is_exit_code_0_and_one_line(config_file):
    done = process("check", "-c", str(config_file), cwd=config_file.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{config_file}: fine (3 routes, 1 upstream, 0 packs)\n"


def test_every_command_that_needs_the_config_tells_its_problems(tmp_path):
    (tmp_path / "config.yaml").write_text(BROKEN)
    for arguments in (["serve"], ["dev"], ["routes"], ["keys", "list"], ["credits", "show", "key_1"]):
        done = process(*arguments, cwd=tmp_path)
        assert done.returncode == 2, arguments
        assert done.stderr.splitlines()[-1] == "config.yaml: 2 problems"
        assert done.stdout == ""


def test_a_missing_config_is_exit_code_2(tmp_path):
    done = process("check", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "config.yaml: can't be read: no such file or directory\nconfig.yaml: 1 problem\n"


def test_problems_as_json_are_one_document(gateway, config_file):
    config_file.write_text(BROKEN)
    outcome = gateway("check", "--json")
    assert (outcome.code, outcome.err) == (2, "")
    assert outcome.document["ok"] is False
    assert outcome.document["problems"][0] == {
        "file": "config.yaml",
        "line": 1,
        "column": 10,
        "path": "server.prot",
        "message": "unknown key",
        "suggestion": "port",
    }
    config_file.write_text("")
    assert gateway("check", "--json").document["ok"] is True


def test_check_help_and_schema_open_nothing_heavy(config_file):
    command = [sys.executable, "-c", QUICK]
    done = subprocess.run(command, cwd=config_file.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(config_file.parent)) == ["config.yaml"], "checking makes no database"


def test_the_schema_and_the_reference_are_printed(gateway):
    assert gateway("schema").out == editor_schema_text()
    assert gateway("schema", "--markdown").out.startswith("# config.yaml\n")
    assert gateway("schema", "--openapi").document["openapi"] == "3.1.0"


def test_the_price_list_is_aligned(gateway):
    assert gateway("routes").out.splitlines() == [
        "METHODS    PATH        UPSTREAM  TARGETS                            CREDITS",
        "POST       /v1/things  a         http://127.0.0.1:9000                    5",
        "PUT,PATCH  /v1/large   a         http://127.0.0.1:9000  at most 20 (X-Used)",
        "GET        /status     a         http://127.0.0.1:9000               public",
    ]


def test_the_price_list_as_json_is_a_list(gateway):
    listed = gateway("routes", "--json").document
    assert listed[1] == {
        "path": "/v1/large",
        "methods": ["PUT", "PATCH"],
        "upstream": "a",
        "public": False,
        "cost": 20,
        "settle": "X-Used",
        "permission": "things.write",
        "rate_limit": {"limit": 10, "window_seconds": 60},
    }
    assert (listed[0]["permission"], listed[0]["rate_limit"]) == (None, None)
    assert [route["cost"] for route in listed] == [5, 20, None]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_output_does_not_depend_on_the_locale(config_file, encoding):
    done = subprocess.run(
        [*GATEWAY, "schema"], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True
    )
    assert json.loads(done.stdout.decode("utf-8"))
