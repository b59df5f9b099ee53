"""What the documentation points at is there: files, anchors, lines of code, commands, targets, configs."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import re
import shlex
from collections.abc import AsyncIterator

import pytest

from gateway.cli.dev import _print_start
from gateway.cli.failure import MISUSED
from gateway.cli.main import run
from gateway.cli.shop import PORT, _sold_at
from gateway.cli.stand_in import LOOPBACK
from gateway.cli.wiring import Wiring
from gateway.config.load import load_config
from gateway.credits.provider import ApiKey
from gateway.errors import CreditsUnavailable, OutOfCredits
from gateway.errors_reference import LEDGER_REASONS
from gateway.server.sockets import Addresses
from tests.docs.pages import PAGES, ROOT, anchors, blocks, command_lines, name_of, prose, spans

GATEWAY_LINES = [(page, line) for page, line in command_lines() if re.match(r"(\.venv/bin/)?gateway ", line)]
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_place_the_architecture_names_is_in_the_code():
    page = ROOT / "docs" / "architecture.md"
    places = re.findall(r"`([a-z0-9_/]+\.py): ([\w.]+)(?:\(\w+\))?`", prose(page))
    assert len(places) > 30
    for file, name in places:
        scope: ast.AST = ast.parse((ROOT / "gateway" / file).read_text())
        for part in name.split("."):
            found = [
                node
                for node in ast.iter_child_nodes(scope)
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == part
            ]
            assert found, f"{file}: {name}"
            scope = found[0]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page):
    for span in spans(page):
        if re.fullmatch(r"(gateway|tests|benchmarks|docs|requirements|\.ci)/[\w./-]*", span):
            assert (ROOT / span).exists(), span
    if page.name == "security.md" and page.parent.name == "docs":
        for file in re.findall(r"\b[a-z]+/[a-z0-9_]+\.py\b", page.read_text()):
            assert (ROOT / "gateway" / file).exists(), file


def test_every_gateway_command_is_one_with_its_options():
    commands = [shlex.split(line, comments=True)[1:] for _, line in GATEWAY_LINES]
    commands += [
        shlex.split(span)[1:]
        for page in PAGES
        for span in spans(page)
        if span.startswith("gateway ") and span not in LEDGER_REASONS
    ]
    assert len(commands) > 15
    for arguments in {tuple(words) for words in commands}:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            code = run([*arguments, "--help"])
        assert code == 0, (arguments, err.getvalue())


@contextlib.asynccontextmanager
async def closed_provider(_config) -> AsyncIterator[None]:
    raise CreditsUnavailable(cause="the command line was understood")
    yield


def test_every_gateway_command_to_paste_is_complete(monkeypatch):
    monkeypatch.chdir(ROOT)
    wiring = Wiring(
        environ={},
        open_provider=closed_provider,
        open_desk=closed_provider,
        open_billing=closed_provider,
        open_for_moving=closed_provider,
        serve=lambda *_: 0,
        examine=lambda _config, _on_progress: [],
    )
    assert len(GATEWAY_LINES) > 5
    for _, line in GATEWAY_LINES:
        arguments = shlex.split(line, comments=True)[1:]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            code = run(arguments, wiring)
        assert code != MISUSED, (line, err.getvalue())
        understood = "the command line was understood", "gateway.jsonl: No such file"
        assert code == 0 or any(words in err.getvalue() for words in understood), (line, err.getvalue())


def test_every_make_target_exists():
    calls = [line for _, line in command_lines() if line.startswith("make ")]
    calls += [span for page in PAGES for span in spans(page) if span.startswith("make ")]
    assert len(calls) > 10
    for call in calls:
        assert set(call.split()[1:]) <= MAKE_TARGETS, call


def test_every_module_to_run_exists():
    modules = {name for page in PAGES for name in re.findall(r"python3? -m ([\w.]+)", page.read_text())}
    assert {"gateway.cli.reference", "gateway.errors_reference", "benchmarks"} <= modules
    for name in modules:
        assert importlib.util.find_spec(name) is not None, name


@pytest.mark.parametrize(
    ("page", "text"),
    [(page, text) for page in PAGES for text in blocks(page, "yaml")],
    ids=lambda value: name_of(value) if hasattr(value, "name") else "",
)
def test_every_config_shown_loads(page, text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    environ = {name: f"value-of-{name}" for name in re.findall(r"\$\{(\w+)\}", text)}
    assert load_config(file, environ).routes


def test_the_readme_shows_what_gateway_dev_prints():
    secret = "gw_tGs0emK9…"
    key = ApiKey(
        key_id="key_a645272ef78a56bcead3",
        user_id="demo",
        name=None,
        start=secret,
        available=100,
        held=0,
        enabled=True,
        created_at=0,
        expires_at=None,
        revoked_at=None,
    )
    config = load_config(ROOT / "config.yaml", {})
    host, admin = config.server.host, config.admin
    addresses = Addresses(f"http://{host}:{config.server.port}", f"http://{admin.host}:{admin.port}")
    stripe = f"http://{LOOPBACK}:{PORT}"
    config = _sold_at(config, stripe)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        stand_ins = {"personas": config.upstreams["personas"].base_urls[0], "unkey": None, "stripe": stripe}
        _print_start(addresses, stand_ins, config, secret, key)
    assert output.getvalue() in blocks(ROOT / "README.md", "text")


@pytest.mark.parametrize("page", ["README.md", "docs/errors.md"])
def test_the_problem_shown_is_one_that_is_sent(page):
    text = (ROOT / page).read_text()
    shown = json.loads(re.search(r'^\{"type".*?\}$', text, re.MULTILINE | re.DOTALL)[0])
    problem = OutOfCredits(
        available=shown["available"], held=shown["held"], cost=shown["cost"], checkout=shown["checkout"]
    )
    assert shown == problem.problem(shown["instance"])
