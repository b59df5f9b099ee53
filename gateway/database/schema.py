"""Bring the schema up to date, safely when several processes start at once."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError


class SchemaTooNew(OperationalError):
    """The database was made by a newer gateway; running on it could break its books."""

    def __init__(self, found: str) -> None:
        super().__init__(None, None, Exception(f"made by a newer gateway (schema {found}); start that version instead"))


def migrate(connection: Connection) -> None:
    """Apply what is missing, inside the caller's write transaction: of several processes the first to get the lock
    migrates, the others then find nothing to do."""
    config = _config()
    found = MigrationContext.configure(connection).get_current_revision()
    known = known_revisions()
    if found is not None and found not in known:
        raise SchemaTooNew(found)
    if found != known[0]:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def known_revisions() -> tuple[str, ...]:
    """Every revision of the schema that this version knows, its own first."""
    return tuple(step.revision for step in ScriptDirectory.from_config(_config()).walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "gateway:database/migrations")
    return config
