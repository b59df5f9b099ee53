"""What must be the same before and after: rows, sums of the ledger, balances and what is held. And I2, key by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, union_all

from gateway.database.moving.tables import TABLES
from gateway.database.tables import entries, holds, keys, unkey_holds

SHOWN_MAX = 3


@dataclass(frozen=True, slots=True)
class Totals:
    """`rows` by table, `entries` the sum of amounts by kind; `balances` and `held` over all keys."""

    rows: Mapping[str, int]
    entries: Mapping[str, int]
    balances: int
    held: int

    def document(self) -> dict[str, Any]:
        return asdict(self)

    def differences(self, other: Totals) -> list[str]:
        """What is not the same, in words: ours first."""
        pairs = [(f"rows of {name}", count, other.rows.get(name)) for name, count in self.rows.items()]
        kinds = sorted(self.entries.keys() | other.entries.keys())
        pairs += [(f"Σ {kind}", self.entries.get(kind, 0), other.entries.get(kind, 0)) for kind in kinds]
        pairs += [("Σ balances", self.balances, other.balances), ("Σ held", self.held, other.held)]
        return [f"{what}: {ours} instead of {theirs}" for what, ours, theirs in pairs if ours != theirs]


def read_totals(connection: Connection) -> Totals:
    """By SQL, each table read once or twice."""
    rows = {
        table.name: int(connection.execute(select(func.count()).select_from(table)).scalar_one()) for table in TABLES
    }
    by_kind = select(entries.c.kind, func.sum(entries.c.amount)).group_by(entries.c.kind).order_by(entries.c.kind)
    balances, held = connection.execute(select(_total(keys.c.balance), _total(keys.c.held))).one()
    return Totals(
        rows=rows,
        entries={kind: int(amount) for kind, amount in connection.execute(by_kind)},
        balances=int(balances),
        held=int(held),
    )


def find_unbalanced(connection: Connection) -> Sequence[str]:
    """Some of the keys for which I2 does not hold: balance = Σ entries, held = Σ open holds. None, if all is well.

    The balance of a key that Unkey keeps is its pool, which the ledger does not tell.
    """
    entered = select(entries.c.key, func.sum(entries.c.amount).label("total")).group_by(entries.c.key).subquery()
    parts = union_all(select(holds.c.key, holds.c.cost), select(unkey_holds.c.key, unkey_holds.c.drawn)).subquery()
    open_holds = select(parts.c.key, func.sum(parts.c.cost).label("total")).group_by(parts.c.key).subquery()
    is_ours = and_(keys.c.balance.is_not(None), keys.c.unkey_id.is_(None))
    query = (
        select(keys.c.key_id)
        .join(entered, entered.c.key == keys.c.id, isouter=True)
        .join(open_holds, open_holds.c.key == keys.c.id, isouter=True)
        .where(
            or_(
                keys.c.held != func.coalesce(open_holds.c.total, 0),
                and_(is_ours, keys.c.balance != func.coalesce(entered.c.total, 0)),
            )
        )
        .limit(SHOWN_MAX)
    )
    return connection.execute(query).scalars().all()


def _total(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0)
