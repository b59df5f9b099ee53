"""Noticing that the files of an open SQLite database were taken away.

SQLite goes on writing to a file that was deleted or replaced: what is sold then is forgotten at the next start, and
sold again. (A write-ahead log is never deleted by SQLite itself while a connection is open.)
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

Identity = tuple[int, int]


class FilesReplaced(sqlite3.OperationalError):
    """Not our database any more. Nothing may be written; only a restart helps."""


class OpenFiles:
    """The database's file and its log, as they were when first seen."""

    __slots__ = ("_database", "_log", "_path")

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._database = _identity(self._path)
        self._log: Identity | None = None

    def check(self) -> None:
        """Two looks at the directory, a microsecond each. Raises FilesReplaced."""
        if _identity(self._path) != self._database:
            raise FilesReplaced(f"{self._path} was deleted or replaced while it is open: restart the gateway")
        log = _identity(self._path + "-wal")
        if log != self._log:
            if self._log is not None:
                raise FilesReplaced(f"{self._path}-wal was deleted or replaced while it is open: restart the gateway")
            self._log = log


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - on the path of every commit
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
