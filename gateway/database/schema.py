"""Bring the schema up to date, safely when several processes start at once; or say that it is not.

Alembic is imported where there is something to migrate: nearly every start finds the schema as it should be, and
should not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0009"
"""The newest revision in migrations/versions."""
MIGRATION_LOCK = 0x6761_7465_7761_7900
"""PostgreSQL's advisory lock of whoever migrates: `gateway` in ASCII."""
IS_THERE = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'",
    "postgresql": "SELECT to_regclass('alembic_version')",
}
"""Something, where there is the table that says which schema this is."""
HOW = "run `gateway migrate` once, with the gateway of this version"


class SchemaTooNew(OperationalError):
    """The database was made by a newer gateway; running on it could break its books."""

    def __init__(self, found: str) -> None:
        super().__init__(None, None, Exception(f"made by a newer gateway (schema {found}); start that version instead"))


class SchemaTooOld(OperationalError):
    """There is no schema, or an older one, and it is not for whoever found it to change that."""

    def __init__(self, found: str | None) -> None:
        what = "no tables yet" if found is None else f"schema {found}, older than this version's"
        super().__init__(None, None, Exception(f"{what}: {HOW}"))


def migrate(connection: Connection) -> str | None:
    """Apply what is missing, inside the caller's write transaction: of several processes the first to get the lock
    migrates, the others then find nothing to do. Returns the revision that was found."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
    found = _read_revision(connection)
    if found == HEAD:
        return found
    if found is not None and found not in known_revisions():
        raise SchemaTooNew(found)
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return found


def check_schema(connection: Connection) -> None:
    """Raises SchemaTooNew, SchemaTooOld."""
    found = _read_revision(connection)
    if found == HEAD:
        return
    if found is not None and found not in known_revisions():
        raise SchemaTooNew(found)
    raise SchemaTooOld(found)


def _read_revision(connection: Connection) -> str | None:
    if connection.exec_driver_sql(IS_THERE[connection.dialect.name]).scalar() is None:
        return None
    found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return found


def known_revisions() -> tuple[str, ...]:
    """Every revision of the schema that this version knows, its own first."""
    from alembic.script import ScriptDirectory

    return tuple(step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "gateway:database/migrations")
    return config
