"""The database: can it be opened and written, is it whole, is there room, is anything left open in it?"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from gateway.database.engine import DatabaseError, is_postgres
from gateway.database.inspection import Inspection
from gateway.database.schema import known_revisions
from gateway.database.sqlite import sqlite_path
from gateway.database.worker import Worker
from gateway.doctor.books import examine_books
from gateway.doctor.diagnosis import Diagnosis, fail, ok, warn

QUICK_CHECK_SECONDS = 6.0
SPACE_WARN_BYTES = 1 << 30
SPACE_FAIL_BYTES = 64 << 20
WHAT = "database"


async def examine_database(url: str) -> AsyncIterator[Diagnosis]:
    """Looked at in a thread of its own, which can't keep the command from ending when the disk hangs."""
    worker = Worker("doctor")
    diagnoses = _examine(url)
    while (diagnosis := await worker.run(lambda: next(diagnoses, None))) is not None:
        yield diagnosis


def _examine(url: str) -> Iterator[Diagnosis]:
    if is_postgres(url):
        from gateway.doctor.postgres import examine_postgres

        yield from examine_postgres(url)
        return
    try:
        path = sqlite_path(url)
        if not path.exists():
            yield _examine_place(path)
        else:
            yield from _examine_file(path)
    except (DatabaseError, OSError) as error:
        yield fail(WHAT, f"{error}: see the path, the file and whose it is")
        return
    yield _examine_space(path)


def _examine_place(path: Path) -> Diagnosis:
    """Where the database will be."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return fail(WHAT, f"{path} does not exist, and can't be made: {there} is no directory to write to")
    return warn(WHAT, f"{path} does not exist yet; the first start makes it")


def _examine_file(path: Path) -> Iterator[Diagnosis]:
    inspection = Inspection(path)
    try:
        revision = inspection.read_revision()
        known = known_revisions()
        if revision is not None and revision not in known:
            yield fail(
                f"{WHAT}: schema", f"{revision} was made by a newer gateway: start that version, this one will not"
            )
            return
        yield ok(WHAT, f"{path} opens")
        if revision != known[0]:
            yield warn(
                f"{WHAT}: schema", f"{revision or 'none'}; the next start brings it to {known[0]}: back up first"
            )
        else:
            yield ok(f"{WHAT}: schema", known[0])
        yield _examine_lock(inspection)
        yield _examine_wholeness(inspection)
        if revision == known[0]:
            yield from examine_books(inspection.rows)
    finally:
        inspection.close()


def _examine_lock(inspection: Inspection) -> Diagnosis:
    what = f"{WHAT}: write lock"
    try:
        inspection.take_write_lock()
    except DatabaseError as error:
        return fail(what, f"{error}: holds can't be taken. See which process keeps it, and whether it may be written")
    return ok(what, "can be taken")


def _examine_wholeness(inspection: Inspection) -> Diagnosis:
    what = f"{WHAT}: integrity"
    problems = inspection.quick_check(QUICK_CHECK_SECONDS)
    if problems is None:
        return warn(
            what,
            f"not known: too large to look through in {QUICK_CHECK_SECONDS:g} s. At a quiet time:"
            f" sqlite3 {inspection.path} 'PRAGMA quick_check'",
        )
    if problems:
        listed = "; ".join(problems)
        return fail(what, f"{listed}. Stop the gateway, keep the file, restore the last backup (docs/operations.md)")
    return ok(what, "quick_check finds nothing")


def _examine_space(path: Path) -> Diagnosis:
    what = f"{WHAT}: free space"
    there = next(parent for parent in path.absolute().parents if parent.exists())
    free_bytes = shutil.disk_usage(there).free
    text = f"{free_bytes / (1 << 30):.1f} GiB on the disk of {there}"
    if free_bytes < SPACE_FAIL_BYTES:
        return fail(what, f"{text}: make room; a full disk takes no holds")
    if free_bytes < SPACE_WARN_BYTES:
        return warn(what, f"{text}: make room before it is full; a full disk takes no holds")
    return ok(what, text)
