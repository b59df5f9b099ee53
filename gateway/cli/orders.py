"""orders: what was sold, credits on their way to Unkey, and what only a person can decide."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gateway.cli.failure import CommandFailed
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, new_group, wiring_of
from gateway.cli.output import print_facts, print_json, print_table, shown_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.billing.desk import OrderDesk
    from gateway.billing.inbox import StripeEvent
    from gateway.billing.orders import Order
    from gateway.config.tree import Config
    from gateway.credits.provider import CreditsProvider, Movement

Result = TypeVar("Result")

group = new_group("Orders: sales, credits on their way to Unkey, and what a person must decide.")

OrderId = Annotated[
    str, typer.Argument(metavar="ID", help="order_…, grant_…, call_… or evt_…, as `gateway orders list` shows it.")
]
Case = dict[str, Any]
"""A sale, a movement or an event, in the same words: id, kind, key_id, amount, state, reference, cause, times."""


class Resolution(StrEnum):
    """What a person found out, or decides."""

    fulfil = "fulfil"
    reject = "reject"
    unfreeze = "unfreeze"
    done = "done"
    applied = "applied"
    not_applied = "not-applied"
    retry = "retry"
    ignore = "ignore"


@group.command("list")
def list_orders(
    context: typer.Context,
    is_all: Annotated[bool, typer.Option("--all", help="Those that are done, too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 100,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List what a person should look at, newest first: sales in review, what is in doubt, events that can't be used."""

    async def read(provider: CreditsProvider, desk: OrderDesk) -> list[Case]:
        cases = [_of_sale(order) for order in await desk.list_orders(is_all=is_all, limit=limit)]
        cases += [_of_event(event) for event in await desk.list_dead(limit=limit)]
        cases += [_of_movement(one) for one in await provider.list_movements(unsettled=not is_all, limit=limit)]
        return sorted(cases, key=lambda case: case["created_at"], reverse=True)[:limit]

    cases = _with_desk(context, load(context, config), read)
    if as_json:
        print_json(cases)
        return
    titles = ("ID", "TIME", "KIND", "KEY", "AMOUNT", "STATE", "REFERENCE", "CAUSE")
    print_table(titles, [_row(case) for case in cases], right=("AMOUNT",))


@group.command()
def show(context: typer.Context, id: OrderId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one."""

    async def find(provider: CreditsProvider, desk: OrderDesk) -> Case | None:
        if id.startswith("order_"):
            order = await desk.find_order(id)
            return None if order is None else _of_sale(order)
        if id.startswith("evt_"):
            event = await desk.find_event(id)
            return None if event is None else _of_event(event)
        movement = await provider.find_movement(id)
        return None if movement is None else _of_movement(movement)

    _print(_with_desk(context, load(context, config), find), id, as_json=as_json)


@group.command()
def resolve(
    context: typer.Context,
    id: OrderId,
    resolution: Annotated[Resolution, typer.Argument(help="What you found out, or want.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Say what is to become of one.

    order_…: fulfil or reject a sale in review; unfreeze the key of a lost dispute; done with what was asked. grant_…,
    call_…: applied or not-applied, as Unkey shows it; a grant that was not applied is sent again, and credits that a
    call of unknown outcome did take go to the key, for its next calls. evt_…: retry an event, or ignore it.
    """

    async def decide(provider: CreditsProvider, desk: OrderDesk) -> Case | None:
        word = resolution.value
        if id.startswith("order_"):
            order = await desk.resolve_order(id, word)
            return None if order is None else _of_sale(order)
        if id.startswith("evt_"):
            event = await desk.resolve_event(id, word)
            return None if event is None else _of_event(event)
        movement = await provider.resolve_movement(id, word)
        return None if movement is None else _of_movement(movement)

    _print(_with_desk(context, load(context, config), decide), id, as_json=as_json)


def _with_desk(
    context: typer.Context, config: Config, work: Callable[[CreditsProvider, OrderDesk], Awaitable[Result]]
) -> Result:
    import asyncio

    async def run() -> Result:
        async with wiring_of(context).open_desk(config) as (provider, desk):
            return await work(provider, desk)

    return asyncio.run(run())


def _of_sale(order: Order) -> Case:
    case = {"id": order.id, "kind": "sale", "key_id": order.key_id, "amount": order.credits}
    case |= {"state": order.state.value, "reference": order.checkout_id, "cause": order.cause}
    members = dataclasses.asdict(order)
    for name in ("checkout_url", "credits", "checkout_id", "reference", "looks"):
        del members[name]
    return case | members | {"state": order.state.value}


def _of_movement(movement: Movement) -> Case:
    return dataclasses.asdict(movement)


def _of_event(event: StripeEvent) -> Case:
    return {
        "id": event.id,
        "kind": event.type,
        "key_id": None,
        "amount": None,
        "state": event.state,
        "reference": event.object_id,
        "cause": event.cause,
        "created_at": event.received_at,
        "updated_at": None,
    }


def _print(case: Case | None, id: str, *, as_json: bool) -> None:
    if case is None:
        raise CommandFailed(f"there is no order {id}: see `gateway orders list --all`")
    if as_json:
        print_json(case)
        return
    shown = dict(case)
    created, changed = shown.pop("created_at"), shown.pop("updated_at")
    facts = [*{**shown, "amount": _shown_amount(case)}.items()]
    print_facts([*facts, ("created", shown_time(created)), ("changed", shown_time(changed))])


def _row(case: Case) -> tuple[object, ...]:
    return (
        case["id"],
        shown_time(case["created_at"]),
        case["kind"],
        case["key_id"],
        _shown_amount(case),
        case["state"],
        case["reference"],
        case["cause"],
    )


def _shown_amount(case: Case) -> str | None:
    return None if case["amount"] is None else f"{case['amount']:+d}"
