"""The log stays short while commits go on, and nothing committed is lost by copying it."""

from __future__ import annotations

import sqlite3
import time

from gateway.database import checkpoint
from gateway.database.sqlite import connect_sqlite


def test_the_log_is_copied_and_started_anew_under_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(checkpoint, "PASSIVE_ABOVE_BYTES", 100_000)
    monkeypatch.setattr(checkpoint, "RESTART_ABOVE_FRAMES", 200)
    path = tmp_path / "x.db"
    connection = connect_sqlite(path, synchronous="NORMAL")
    connection.execute("PRAGMA busy_timeout = 2000")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, filler TEXT)")
    checkpointer = checkpoint.Checkpointer(path)
    checkpointer.open()
    written, longest, give_up_at = 0, 0, time.monotonic() + 20
    try:
        while written < 5_000 and time.monotonic() < give_up_at:
            connection.execute("INSERT INTO t (filler) VALUES (?)", ("x" * 2_000,))
            written += 1
            longest = max(longest, path.with_name("x.db-wal").stat().st_size)
            if written % 50 == 0:
                time.sleep(0.005)  # writers pause: a busy core must not starve the thread under test
    finally:
        checkpointer.close()
    total_bytes = written * 8_192  # two pages a row, roughly: what the log would be without checkpoints
    assert longest < total_bytes / 2
    connection.close()
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM t").fetchone() == (written,)
    other.close()
