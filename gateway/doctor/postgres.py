"""PostgreSQL: can it be reached and written, is its schema ours, does it keep what it has committed?"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from gateway.database.engine import DatabaseError
from gateway.database.postgres import LOCK_TIMEOUT_MS, connect, public, read_parameters, shown
from gateway.database.schema import HEAD, HOW, known_revisions
from gateway.doctor.books import examine_books
from gateway.doctor.diagnosis import Diagnosis, State, fail, ok, warn

WHAT = "database"
VERSION_MIN = 140_000


def examine_postgres(url: str) -> Iterator[Diagnosis]:
    try:
        parameters = read_parameters(url)
        with connect(parameters, LOCK_TIMEOUT_MS) as connection:
            yield _examine_version(connection, shown(parameters))
            yield _examine_writing(connection)
            yield from _examine_durability(connection)
            schema = _examine_schema(connection)
            yield schema
            if schema.state is State.OK:
                yield from examine_books(lambda query: connection.execute(query).fetchall())
    except (DatabaseError, psycopg.Error) as error:
        yield fail(WHAT, f"{public(error)}: see the address, the server and its pg_hba.conf")


def _examine_version(connection: psycopg.Connection, name: str) -> Diagnosis:
    number, text = connection.info.server_version, connection.execute("SHOW server_version").fetchone()
    version = str(text[0]).split()[0] if text is not None else ""
    if number < VERSION_MIN:
        return fail(WHAT, f"{name} is PostgreSQL {version}: the gateway needs {VERSION_MIN // 10_000} or newer")
    return ok(WHAT, f"{name} opens, PostgreSQL {version}")


def _examine_writing(connection: psycopg.Connection) -> Diagnosis:
    what = f"{WHAT}: writing"
    row = connection.execute("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')").fetchone()
    if row is None or row[0]:
        return fail(what, "this is a replica, which takes no holds: name the primary (target_session_attrs=read-write)")
    if row[1] == "on":
        return fail(what, "transactions are read-only here (default_transaction_read_only): holds can't be taken")
    return ok(what, "it is no replica and takes writes")


def _examine_durability(connection: psycopg.Connection) -> Iterator[Diagnosis]:
    for setting, loses in (
        ("fsync", "a crash of the machine can destroy the books"),
        ("full_page_writes", "a crash of the machine can destroy the books"),
        ("synchronous_commit", "a crash of the server forgets what was sold last"),
    ):
        row = connection.execute("SELECT current_setting(%s)", (setting,)).fetchone()
        if row is not None and row[0] == "off":
            yield warn(f"{WHAT}: {setting}", f"is off: {loses}. Switch it on")
        else:
            yield ok(f"{WHAT}: {setting}", "on" if row is None else str(row[0]))


def _examine_schema(connection: psycopg.Connection) -> Diagnosis:
    what = f"{WHAT}: schema"
    there = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return fail(what, f"no tables yet: {HOW}")
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    found = None if row is None else str(row[0])
    if found == HEAD:
        return ok(what, HEAD)
    if found is not None and found not in known_revisions():
        return fail(what, f"{found} was made by a newer gateway: start that version, this one will not")
    return fail(what, f"{found}, older than this version's {HEAD}: {HOW}")
