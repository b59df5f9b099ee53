"""Whatever goes wrong is one line on standard error and an exit code, never a traceback."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import __version__
from gateway.build import build
from gateway.cli.reference import cli_reference
from gateway.errors import Conflict, CreditsUnavailable, Invalid

GATEWAY = [sys.executable, "-c", "from gateway.cli.main import main; main()"]
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            CreditsUnavailable(cause="database: disk I/O error\n[SQL: SELECT secret]"),
            "gateway: Credits can't be checked right now: database: disk I/O error\n",
        ),
        (
            Invalid("no", errors={"user_id": "has a space"}),
            "gateway: A value in the request is not allowed: user_id: has a space\n",
        ),
        (Conflict("Used."), "gateway: The request conflicts with what is already there: Used\n"),
        (PermissionError(13, "Permission denied", "data/gateway.db"), "gateway: data/gateway.db: Permission denied\n"),
        (
            ValueError("hunter2"),
            "gateway: a defect of the gateway: ValueError (GATEWAY_TRACEBACK=1 shows where)\n",
        ),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(gateway, provider, failure, expected):
    provider.failure = failure
    outcome = gateway("keys", "list")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", expected)


def test_a_defect_shows_its_traceback_to_who_asks(gateway, provider, monkeypatch):
    provider.failure = ValueError("here")
    monkeypatch.setenv("GATEWAY_TRACEBACK", "1")
    with pytest.raises(ValueError, match="here"):
        gateway("keys", "list")


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["keys", "bogus"], ["keys", "create"], ["serve", "--bogus"], ["check", "x"]]
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(gateway, arguments):
    outcome = gateway(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("gateway: ")


@pytest.mark.parametrize("arguments", [[], ["keys"], ["credits"]])
def test_no_command_shows_the_help(gateway, arguments):
    outcome = gateway(*arguments)
    assert outcome.code == 2
    assert "Commands:" in outcome.err


def test_ctrl_c_is_exit_code_130(gateway, provider):
    provider.failure = KeyboardInterrupt()
    assert gateway("keys", "list").code == 130


def test_a_reader_that_goes_away_is_no_traceback():
    process = subprocess.Popen([*GATEWAY, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 1


def test_the_version(gateway):
    assert gateway("version").out == f"{__version__} ({build()}, Python {platform.python_version()})\n"
    assert gateway("version", "--json").document == {
        "version": __version__,
        "build": build(),
        "python": platform.python_version(),
    }


def test_the_page_about_the_command_line_is_current():
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == cli_reference(), "run: python -m gateway.cli.reference > docs/cli.md"
