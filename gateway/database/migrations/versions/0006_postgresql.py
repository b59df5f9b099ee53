"""What several replicas on one PostgreSQL need: the number of a process's last batch; the ledger's numbers."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, text

from gateway.database.types import Id

revision = "0006"
down_revision = "0005"

UPDATED_IN_PLACE = ("keys", "holds", "unkey_holds", "rate_windows", "instances", "leases")
"""Rows that are updated often, in columns without an index: with room in their page that costs no index an entry."""
SHORT_LIVED = ("holds", "unkey_holds")


def upgrade() -> None:
    op.add_column("instances", Column("batch", Id, nullable=False, server_default=text("0")))
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("CREATE SEQUENCE entry_ids")
    for table in UPDATED_IN_PLACE:
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")
    for table in SHORT_LIVED:
        # Nearly every row is dead: by their share alone they would be swept too late.
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,"
            " autovacuum_vacuum_cost_delay = 0)"
        )
