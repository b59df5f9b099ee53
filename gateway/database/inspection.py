"""A look at a database from outside: is it whole, can it be written, what is open in it? Nothing is changed or made."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.database.engine import DatabaseError
from gateway.database.sqlite import BUSY_TIMEOUT_MS

STEPS = 100_000
"""Of SQLite's virtual machine between two looks at the clock; a few milliseconds."""
PROBLEMS_MAX = 3


class Inspection:
    """One connection to a database that exists. Every method raises DatabaseError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _translated():
            uri = f"file:{quote(str(path))}?mode=rw"
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            self._connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")

    def close(self) -> None:
        self._connection.close()

    def read_revision(self) -> str | None:
        """The schema's revision; None where no gateway has made one."""
        if not self.rows("SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'"):
            return None
        rows = self.rows("SELECT version_num FROM alembic_version")
        return str(rows[0][0]) if rows else None

    def take_write_lock(self) -> None:
        """Take it and let it go."""
        with _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("ROLLBACK")

    def quick_check(self, timeout_seconds: float) -> list[str] | None:
        """What is broken in the file, the first of it; None where there was not the time to look through it all."""
        give_up_at = time.monotonic() + timeout_seconds
        self._connection.set_progress_handler(lambda: time.monotonic() > give_up_at, STEPS)
        try:
            rows = self.rows(f"PRAGMA quick_check({PROBLEMS_MAX})")
        except DatabaseError:
            if time.monotonic() > give_up_at:
                return None
            raise
        finally:
            self._connection.set_progress_handler(None, 0)
        return [str(row[0]) for row in rows if row[0] != "ok"]

    def rows(self, query: str) -> list[Any]:
        """What a query of ours finds."""
        with _translated():
            return self._connection.execute(query).fetchall()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(str(error)) from error
