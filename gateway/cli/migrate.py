"""migrate: bring the database's schema up to this version."""

from __future__ import annotations

import typer

from gateway.cli.failure import CommandFailed
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load
from gateway.cli.output import print_json


def migrate(context: typer.Context, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Bring the database's schema up to this version. Back up first.

    PostgreSQL: to be run once before a new version serves; several at once are safe, and a second finds nothing to do.
    SQLite: every start does it by itself.
    """
    from gateway.database.engine import DatabaseError
    from gateway.database.migration import migrate_database

    url = load(context, config).database.url.get_secret_value()
    try:
        found, now = migrate_database(url)
    except DatabaseError as error:
        raise CommandFailed(f"the database can't be migrated: {error}") from error
    if as_json:
        print_json({"schema_before": found, "schema": now})
    elif found == now:
        print(f"The schema is {now} already.")
    else:
        print(f"The schema is {now} now; it was {found or 'not there'}.")
