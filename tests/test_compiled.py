"""What setup.py compiles is the same code, and none of it does what mypyc gets wrong."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.build import build

ROOT = Path(__file__).parents[1]
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
MODULES = SETUP["MODULES"]
SUSPENDING = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)
ENDS_AT_ONCE = ("asyncio.timeout", "asyncio.timeout_at")
"""Of these `async with` the end never suspends."""


def suspensions(source: str) -> Iterator[int]:
    """Lines in which a coroutine or generator may be suspended while an exception is being handled."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Try):
            handled = [*node.handlers, *node.finalbody]
            yield from (inner.lineno for part in handled for inner in ast.walk(part) if isinstance(inner, SUSPENDING))
        elif isinstance(node, ast.AsyncWith):
            for item in node.items:
                call = item.context_expr
                if not (isinstance(call, ast.Call) and ast.unparse(call.func) in ENDS_AT_ONCE):
                    yield node.lineno


@pytest.mark.parametrize("module", MODULES)
def test_no_compiled_module_suspends_while_it_handles_an_exception(module):
    """mypyc would show that exception to whoever runs meanwhile, and a bare `raise` afterwards could crash."""
    assert not list(suspensions((ROOT / module).read_text()))


@pytest.mark.parametrize(
    "body",
    [
        "try:\n  await a()\n except E:\n  await b()\n  raise",
        "try:\n  await a()\n finally:\n  await b()",
        "async with a():\n  pass",
        "try:\n  pass\n except E:\n  async for x in a():\n   pass",
    ],
)
def test_the_rule_sees_what_it_forbids(body):
    assert list(suspensions(f"async def f():\n {body}\n"))
    assert not list(suspensions("async def f():\n try:\n  await a()\n except E:\n  raise\n"))


def test_what_is_installed_for_development_is_pure_python():
    assert build() == "pure Python"
