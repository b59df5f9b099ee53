"""SQLite as the database: a file, WAL, one writer at a time.

`BEGIN IMMEDIATE` for whatever writes: a transaction that reads first and writes later gets SQLITE_BUSY at once, however
long it might wait. These transactions commit with synchronous=FULL: they add credits and keys. Spending goes through
the journal (credits/journal.py) with NORMAL.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.database.engine import Database, DatabaseError, Result
from gateway.database.failure import Kind, kind_of
from gateway.database.open_files import FilesReplaced, OpenFiles
from gateway.database.schema import migrate
from gateway.database.worker import Worker
from gateway.errors import CreditsUnavailable

logger = logging.getLogger("gateway.database")

BUSY_TIMEOUT_MS = 1_500
"""How long a writer waits for another process's transaction. Below the 2 s in which a caller is answered."""
OPEN_SECONDS = 10.0
"""How long opening waits while another process makes or migrates the tables."""
CLOSE_SECONDS = 2.0
"""How long closing waits for a transaction that is under way; a disk that hangs must not keep the process."""


class SqliteDatabase(Database):
    """A file, and the thread that speaks to it for everything but spending.

    One thread: SQLite takes one writer at a time anyway, and what waits here is rare (keys, grants, history).
    """

    is_remote = False

    def __init__(self, path: Path, engine: Engine) -> None:
        self.path = path
        self.files = OpenFiles(path)
        self._engine = engine
        self._snapshots = engine.execution_options(begin="BEGIN")
        self._worker = Worker("database")

    async def transaction(self, work: Callable[[Connection], Result]) -> Result:
        return await self._worker.run(partial(self._run_on, self._engine, work))

    async def read(self, work: Callable[[Connection], Result]) -> Result:
        return await self._worker.run(partial(self._run_on, self._snapshots, work))

    def _run_on(self, engine: Engine, work: Callable[[Connection], Result]) -> Result:
        try:
            with engine.begin() as connection:
                self.files.check()
                return work(connection)
        except (SQLAlchemyError, FilesReplaced) as error:
            raise CreditsUnavailable(cause=f"database: {error}") from error

    def close(self) -> None:
        if self._worker.close(CLOSE_SECONDS):
            self._engine.dispose()
        else:
            logger.warning("the database does not answer; leaving without closing it")


def open_sqlite(url: str) -> SqliteDatabase:
    """Open, make and migrate. Raises DatabaseError."""
    path = sqlite_path(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = _sqlite_engine(path)
        _migrate_patiently(engine)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = str(getattr(error, "orig", None) or error)
        raise DatabaseError(f"{path}: {reason}") from error
    return SqliteDatabase(path, engine)


def _migrate_patiently(engine: Engine) -> None:
    """Of processes that start together one makes the tables, which may take longer than a call may wait: on a busy
    machine a second worker gave up, and the gateway with it."""
    give_up_at = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            with engine.begin() as connection:
                migrate(connection)
            return
        except (DBAPIError, sqlite3.OperationalError) as error:
            cause = (error.orig or error) if isinstance(error, DBAPIError) else error
            if kind_of(cause) is not Kind.busy or time.monotonic() >= give_up_at:
                raise


def sqlite_path(url: str) -> Path:
    """The file of a `sqlite:///…` URL. Raises DatabaseError for any other kind."""
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise DatabaseError(f"{parsed.render_as_string(hide_password=True)}: expected sqlite:///path.db")
    return Path(parsed.database)


def connect_sqlite(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """A plain driver connection with the pragmas that everything here relies on."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    prepare_connection(connection, synchronous=synchronous)
    return connection


def prepare_connection(connection: sqlite3.Connection, *, synchronous: str) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    _use_log(connection)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    # The checkpointer moves the log into the database; a committer never does (it cost a p99 of 53 ms).
    connection.execute("PRAGMA wal_autocheckpoint = 0")


def _use_log(connection: sqlite3.Connection) -> None:
    """Switch to WAL. The switch does not wait for locks: of processes that start together all but one would fail."""
    give_up_at = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(0.02)


def _sqlite_engine(path: Path) -> Engine:
    engine = sqlalchemy.create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False},
        hide_parameters=True,  # they would stand in the log: hashes of keys, ids of users
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        prepare_connection(connection, synchronous="FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN IMMEDIATE"))

    return engine
