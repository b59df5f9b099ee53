"""Grants on their way and doubts, in the words of the port: `grant_12`, `call_7`."""

from __future__ import annotations

from sqlalchemy import Connection

from gateway.credits.provider import Movement
from gateway.credits.unkey import doubts, grants
from gateway.credits.unkey.doubts import Doubt, Look, Standing
from gateway.credits.unkey.grant import Grant
from gateway.errors import Invalid

RESOLUTIONS = ("applied", "not-applied")


def list_movements(connection: Connection, *, unsettled: bool, limit: int) -> list[Movement]:
    """Newest first."""
    found = [_of_grant(grant) for grant in grants.list_grants(connection, unsettled=unsettled, limit=limit)]
    found += [_of_doubt(doubt) for doubt in doubts.list_doubts(connection, is_open=unsettled, limit=limit)]
    return sorted(found, key=lambda movement: movement.created_at, reverse=True)[:limit]


def find(connection: Connection, id: str) -> Movement | None:
    kind, number = _parse(id)
    if kind == "grant":
        grant = grants.find(connection, number)
        return None if grant is None else _of_grant(grant)
    doubt = doubts.find(connection, number) if kind == "call" else None
    return None if doubt is None else _of_doubt(doubt)


def read_standing(connection: Connection, id: str) -> tuple[Standing, int] | None:
    """See doubts.read_standing; None for what is no call's."""
    kind, number = _parse(id)
    return doubts.read_standing(connection, number) if kind == "call" else None


def resolve(connection: Connection, id: str, resolution: str, look: Look | None) -> Movement | None:
    """See CreditsProvider.resolve_movement, and doubts.resolve."""
    if resolution not in RESOLUTIONS:
        raise Invalid("No such resolution.", errors={"resolution": "applied or not-applied"})
    kind, number = _parse(id)
    if kind == "grant":
        grant = grants.resolve(connection, number, resolution)
        return None if grant is None else _of_grant(grant)
    doubt = doubts.resolve(connection, number, resolution, look) if kind == "call" else None
    return None if doubt is None else _of_doubt(doubt)


def _parse(id: str) -> tuple[str, int]:
    kind, _, number = id.partition("_")
    return (kind, int(number)) if number.isascii() and number.isdigit() and len(number) < 19 else ("", 0)


def _of_grant(grant: Grant) -> Movement:
    return Movement(
        id=f"grant_{grant.id}",
        kind=grant.kind,
        key_id=grant.key_id,
        amount=grant.amount,
        state=grant.state.replace("_", "-"),
        reference=grant.reference,
        cause=grant.cause,
        created_at=grant.created_at,
        updated_at=grant.updated_at,
    )


def _of_doubt(doubt: Doubt) -> Movement:
    return Movement(
        id=f"call_{doubt.id}",
        kind="spend",
        key_id=doubt.key_id,
        amount=-doubt.amount,
        state=doubt.resolution or "in-doubt",
        reference=doubt.request_id,
        cause=doubt.cause,
        created_at=doubt.created_at,
        updated_at=doubt.resolved_at,
    )
