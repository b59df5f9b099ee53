"""Moves SQLite's write-ahead log into the database, off the hot path.

A committer that checkpoints makes everybody wait for its fsync (a p99 of 53 ms). This thread copies passively, which
blocks nobody; only when the log is long and nearly copied does it ask writers to wait the few milliseconds it takes to
start the log anew. Several processes may run one each: SQLite lets a single one through, the others skip their turn.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from gateway.database.sqlite import connect_sqlite

logger = logging.getLogger("gateway.database")

INTERVAL_SECONDS = 1.0
PASSIVE_ABOVE_BYTES = 4 * 1024 * 1024
NEARLY_COPIED_FRAMES = 1_024
"""So few frames are copied within milliseconds while writers wait."""
RESTART_ABOVE_FRAMES = 16_384
"""64 MiB of pages."""


class Checkpointer:
    """A thread that keeps the log of the database at `path` short."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(path.name + "-wal")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while not self._stop.wait(INTERVAL_SECONDS):
            try:
                if connection is None:
                    connection = connect_sqlite(self._path, synchronous="NORMAL")
                    # It never waits: with the writers' lock in hand, whoever waits for a reader stops all writers.
                    connection.execute("PRAGMA busy_timeout = 0")
                self._turn(connection)
            except (sqlite3.Error, OSError) as error:
                # Nothing is lost: the log only grows until the next turn succeeds.
                logger.warning("a checkpoint failed: %s", error)
        if connection is not None:
            connection.close()

    def _turn(self, connection: sqlite3.Connection) -> None:
        if self._log_path.exists() and self._log_path.stat().st_size > PASSIVE_ABOVE_BYTES:
            _busy, frames, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if frames > RESTART_ABOVE_FRAMES and frames - copied < NEARLY_COPIED_FRAMES:
                # Not TRUNCATE: a log that keeps its length is written over, and no page of it has to be found anew.
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
