"""Bringing a database's schema up to date, for who asks for it."""

from __future__ import annotations

from gateway.database.engine import is_postgres
from gateway.database.schema import HEAD


def migrate_database(url: str) -> tuple[str | None, str]:
    """The revision that the schema had, None where there was none, and the one it has now. Raises DatabaseError."""
    if is_postgres(url):
        from gateway.database.postgres import migrate_postgres

        return migrate_postgres(url), HEAD
    from gateway.database.inspection import Inspection
    from gateway.database.sqlite import open_sqlite, sqlite_path

    found = None
    if sqlite_path(url).exists():
        inspection = Inspection(sqlite_path(url))
        found = inspection.read_revision()
        inspection.close()
    open_sqlite(url).close()
    return found, HEAD
