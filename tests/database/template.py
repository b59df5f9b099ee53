"""A database file as the gateway makes it, migrated once for all tests of a process: Alembic takes 60 ms for each."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from gateway.database.engine import open_database


def prepare_database(path: Path) -> None:
    """Put a fresh, migrated database there, unless there is one."""
    if not path.exists():
        path.write_bytes(_migrated())


@functools.cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "template.db"
        open_database(f"sqlite:///{path}").close()
        assert [file.name for file in path.parent.iterdir()] == [path.name], "not all of it is in the one file"
        return path.read_bytes()
