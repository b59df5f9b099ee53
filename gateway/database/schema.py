"""Bring the schema up to date, safely when several processes start at once.

Alembic is imported where there is something to migrate: nearly every start finds the schema as it should be, and
should not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import OperationalError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0005"
"""The newest revision in migrations/versions."""


class SchemaTooNew(OperationalError):
    """The database was made by a newer gateway; running on it could break its books."""

    def __init__(self, found: str) -> None:
        super().__init__(None, None, Exception(f"made by a newer gateway (schema {found}); start that version instead"))


def migrate(connection: Connection) -> None:
    """Apply what is missing, inside the caller's write transaction: of several processes the first to get the lock
    migrates, the others then find nothing to do."""
    found = _read_revision(connection)
    if found == HEAD:
        return
    if found is not None and found not in known_revisions():
        raise SchemaTooNew(found)
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
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
