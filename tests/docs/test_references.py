"""What is made from the code is current, and leaves nothing out."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator

import gateway
from gateway.errors import GatewayError, UpstreamError
from gateway.errors_reference import (
    EXPLANATIONS,
    LEDGER_REASONS,
    MEMBERS,
    RELEASE_REASONS,
    errors_reference,
    members_of,
)
from gateway.observe.families import FAMILIES
from gateway.observe.reference import with_table
from tests.docs.pages import ROOT, anchors

ERRORS = ROOT / "docs" / "errors.md"
OPERATIONS = ROOT / "docs" / "operations.md"


def test_the_page_of_errors_is_current():
    assert ERRORS.read_text() == errors_reference(), "run: make docs"


def test_the_table_of_metrics_is_current():
    page = OPERATIONS.read_text()
    assert page == with_table(page), "run: make docs"
    for name in FAMILIES:
        assert f"`gateway_{name}" in page


def every_error(base: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    yield base
    for error in base.__subclasses__():
        yield from every_error(error)


def test_every_error_is_explained_under_its_status():
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)
    explained = {explanation.example.slug: explanation.example.status for explanation in EXPLANATIONS}
    assert len(explained) == len(EXPLANATIONS)
    found = {error.slug: error.status for error in every_error() if error.__module__.startswith("gateway.")}
    found.pop(UpstreamError.slug)  # the base's; the leaf with this slug is looked at instead
    assert found.items() <= explained.items()
    assert explained.keys() - found.keys() <= {UpstreamError.slug}
    assert set(explained) <= anchors(ERRORS)


def test_every_member_is_explained():
    assert {name for explanation in EXPLANATIONS for name in members_of(explanation.example)} == set(MEMBERS)


def raised(name: str) -> bool:
    """Whether the gateway's code makes such an error anywhere but where it is defined and explained."""
    files = [file for file in (ROOT / "gateway").rglob("*.py") if not file.name.startswith("errors")]
    return any(re.search(rf"\b{name}\b", file.read_text()) for file in files)


def test_an_error_is_called_reserved_exactly_if_nothing_raises_it():
    for explanation in EXPLANATIONS:
        assert explanation.is_for_later != raised(type(explanation.example).__name__), explanation.example.slug


def test_every_reason_for_a_release_is_explained():
    trees = [ast.parse((ROOT / "gateway/proxy" / name).read_text()) for name in ("endings.py", "endpoint.py")]
    words = {"client_abort"}  # by a name, CLIENT_ABORT
    for call in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "end":
            words |= {
                node.value
                for argument in call.args[2:3]
                for node in ast.walk(argument)
                if isinstance(node, ast.Constant)
            }
    settlement = ast.parse((ROOT / "gateway/proxy/settlement.py").read_text())
    release_word = next(node for node in settlement.body if getattr(node, "name", "") == "release_word")
    words |= {
        node.value
        for statement in ast.walk(release_word)
        if isinstance(statement, ast.Return)
        for node in ast.walk(statement.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    words |= {error.reason for error in every_error(UpstreamError)}
    assert words - {""} == RELEASE_REASONS.keys() - {"used_nothing"}


def test_every_reason_in_the_ledger_is_one_that_is_written():
    sources = "".join(file.read_text() for file in (ROOT / "gateway/credits").glob("*.py"))
    for reason in LEDGER_REASONS:
        assert reason == "upstream answered <status>" or f'"{reason}"' in sources


def test_the_changelog_is_headed_by_the_version():
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == gateway.__version__


def test_every_dependency_says_what_it_earns():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {re.match(r"[\w-]+", dependency)[0] for dependency in project["dependencies"]}
    rows = set(re.findall(r"^\| ([\w-]+) \|", (ROOT / "SECURITY.md").read_text(), re.MULTILINE))
    assert rows == named
