"""orders: credits on their way to Unkey, and what only a person can decide."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.failure import CommandFailed
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, new_group, with_provider
from gateway.cli.output import print_facts, print_json, print_table, shown_time

if TYPE_CHECKING:
    from gateway.credits.provider import Movement

group = new_group("Orders: grants on their way to Unkey, and what is in doubt there.")

OrderId = Annotated[str, typer.Argument(metavar="ID", help="grant_… or call_…, as `gateway orders list` shows it.")]


class Resolution(StrEnum):
    """What a person found out at Unkey."""

    applied = "applied"
    not_applied = "not-applied"


@group.command("list")
def list_orders(
    context: typer.Context,
    is_all: Annotated[bool, typer.Option("--all", help="Those that are done, too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 100,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List what is not settled, newest first."""
    found = with_provider(
        context, load(context, config), lambda provider: provider.list_movements(unsettled=not is_all, limit=limit)
    )
    if as_json:
        print_json([dataclasses.asdict(movement) for movement in found])
        return
    titles = ("ID", "TIME", "KIND", "KEY", "AMOUNT", "STATE", "REFERENCE", "CAUSE")
    print_table(titles, [_row(movement) for movement in found], right=("AMOUNT",))


@group.command()
def show(context: typer.Context, id: OrderId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one."""
    movement = with_provider(context, load(context, config), lambda provider: provider.find_movement(id))
    _print(movement, id, as_json=as_json)


@group.command()
def resolve(
    context: typer.Context,
    id: OrderId,
    resolution: Annotated[Resolution, typer.Argument(help="Whether it took effect at Unkey.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Say what became of one that is in doubt.

    A grant that was not applied is sent again. Credits that a call of unknown outcome did take at Unkey (applied) go to
    the key, for its next calls.
    """
    movement = with_provider(
        context, load(context, config), lambda provider: provider.resolve_movement(id, resolution.value)
    )
    _print(movement, id, as_json=as_json)


def _print(movement: Movement | None, id: str, *, as_json: bool) -> None:
    if movement is None:
        raise CommandFailed(f"there is no order {id}: see `gateway orders list --all`")
    if as_json:
        print_json(dataclasses.asdict(movement))
        return
    print_facts(
        [
            ("id", movement.id),
            ("kind", movement.kind),
            ("key_id", movement.key_id),
            ("amount", f"{movement.amount:+d}"),
            ("state", movement.state),
            ("reference", movement.reference),
            ("cause", movement.cause),
            ("created", shown_time(movement.created_at)),
            ("changed", shown_time(movement.updated_at)),
        ]
    )


def _row(movement: Movement) -> tuple[object, ...]:
    return (
        movement.id,
        shown_time(movement.created_at),
        movement.kind,
        movement.key_id,
        f"{movement.amount:+d}",
        movement.state,
        movement.reference,
        movement.cause,
    )
