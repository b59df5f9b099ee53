"""What tests of every kind may ask for, and how many examples Hypothesis tries where a test does not say: some in `make
test`, many in `make torture`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.database.postgres import PostgresServer

settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("torture", max_examples=1_000, deadline=None)
settings.load_profile("torture" if os.environ.get("TORTURE") else "quick")


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
