"""Run by Alembic: apply the revisions on the connection that the caller put into the config."""

from __future__ import annotations

from alembic import context

from gateway.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
