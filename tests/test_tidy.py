"""Style that a linter does not know (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import together

ROOT = Path(__file__).parents[1]
MODULES = sorted(file for file in (ROOT / "gateway").rglob("*.py") if file.read_text().strip())
NOT_OURS = {"__pycache__", "data", "build", "dist"}
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
NO_NOUNS = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "data", "info"}
# Written so that this file itself does not match.
SOMEBODYS_MACHINE = re.compile(
    r"/wor[k]/|/hom[e]/\w|/Users/\w|pypi\.or[g]|pythonhosted\.or[g]|artifactor[y]|\bissu[e] \d"
)


def texts() -> Iterator[tuple[Path, str]]:
    """Every text file of the checkout."""
    for directory, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and (name[0] != "." or name == ".ci")]
        folders[:] = [name for name in folders if not name.endswith(".egg-info")]
        for name in files:
            file = Path(directory, name)
            if name == ".git":  # of a linked work tree: it says where the other one is
                continue
            try:
                yield file, file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def test_no_file_names_somebodys_machine_or_tracker():
    found = [
        f"{file.relative_to(ROOT)}: {match[0]}" for file, text in texts() for match in SOMEBODYS_MACHINE.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_is_one_noun_with_a_docstring_and_of_a_size_to_read(file):
    assert file.stem not in NO_NOUNS
    assert file.read_text().count("\n") <= MODULE_LINES_MAX
    assert ast.get_docstring(ast.parse(file.read_text()))


def test_functions_are_of_a_size_to_read():
    long = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for file in MODULES
        if "migrations" not in file.parts
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert long == []


def test_each_module_whose_tests_stay_together_exists():
    assert [module for module in together.MODULES if not (ROOT / module).exists()] == []
