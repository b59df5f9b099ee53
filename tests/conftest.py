"""What tests of every kind may ask for, and how many examples Hypothesis tries where a test does not say: some in `make
test`, many in `make torture`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.authorities import share_authorities
from tests.database.postgres import PostgresServer

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("torture", max_examples=1_000, deadline=None)
settings.load_profile("torture" if os.environ.get("TORTURE") else "quick")


GARBAGE_OBJECTS = 20_000
"""How many new objects let Python look for garbage: a fifth of the tests' time went into looking at 700."""


def pytest_configure() -> None:
    share_authorities()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.together import Together

    return Together(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end, so that nobody need look for garbage in it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        gc.enable()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name what fails as it fails: a run that is cut off, or that goes on for minutes, has told."""
    if report.failed and sys.__stderr__ is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nfailed: {report.nodeid} ({report.when})", file=sys.__stderr__, flush=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL, started by the first test of a process that asks for it."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def database_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path | str]:
    """A fresh database of a kind: the path of a file for `sqlite`, the URL for `postgresql`."""
    return lambda kind: (
        request.getfixturevalue("postgres").create() if kind == "postgresql" else tmp_path / "gateway.db"
    )
