"""credits: what a key can spend, adding to it, and where it went."""

from __future__ import annotations

import dataclasses
import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.keys import CREDITS_MAX, no_such_key
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, KeyId, load, new_group, with_provider
from gateway.cli.output import print_facts, print_json, print_table, shown_credits, shown_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.credits.provider import CreditsProvider, Entry

group = new_group("Credits: balances, grants and the ledger.")


class Kind(StrEnum):
    """What a grant is entered as."""

    promo = "promo"
    adjustment = "adjustment"


@group.command()
def show(context: typer.Context, key_id: KeyId, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show what a key can spend and what calls in flight hold."""
    balance = with_provider(context, load(context, config), lambda provider: provider.balance(key_id))
    if balance is None:
        raise no_such_key(key_id)
    if as_json:
        print_json({**dataclasses.asdict(balance), "unlimited": balance.available is None})
        return
    print_facts(
        [
            ("key_id", balance.key_id),
            ("user_id", balance.user_id),
            ("available", shown_credits(balance.available)),
            ("held", balance.held),
        ]
    )


# Else `-5` is taken for an option.
@group.command(context_settings={"ignore_unknown_options": True})
def grant(
    context: typer.Context,
    key_id: KeyId,
    amount: Annotated[int, typer.Argument(metavar="AMOUNT", help="Credits; below zero only as an adjustment.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the key's history.")],
    kind: Annotated[Kind, typer.Option("--kind", help="How it is entered in the ledger.")] = Kind.promo,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="TEXT",
            help="Applied once: the same reference again changes nothing.",
            show_default="a new one, which is printed",
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Add credits to a key, or take some back as an adjustment."""
    _check_amount(amount, kind)
    loaded = load(context, config)
    unique = reference or f"cli:{os.urandom(8).hex()}"

    async def apply(provider: CreditsProvider) -> Entry:
        if await provider.balance(key_id) is None:
            raise no_such_key(key_id)
        return await provider.grant(key_id, amount, kind.value, reason, unique)

    entry = with_provider(context, loaded, apply)
    if as_json:
        print_json(_document(entry))
        return
    print_facts(
        [
            ("key_id", key_id),
            ("kind", entry.kind),
            ("amount", f"{entry.amount:+d}"),
            ("balance", shown_credits(entry.balance_after)),
            ("reference", entry.reference),
        ]
    )


@group.command()
def history(
    context: typer.Context,
    key_id: KeyId,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 50,
    before: Annotated[int | None, typer.Option("--before", metavar="ID", min=1, help="Only older than this.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List a key's ledger entries, newest first."""

    async def read(provider: CreditsProvider) -> Sequence[Entry]:
        if await provider.get(key_id) is None:
            raise no_such_key(key_id)
        return await provider.history(key_id, before=before, limit=limit)

    entries = with_provider(context, load(context, config), read)
    if as_json:
        print_json([_document(entry) for entry in entries])
        return
    titles = ("ID", "TIME", "KIND", "AMOUNT", "BALANCE", "ROUTE", "REQUEST", "REASON", "REFERENCE")
    print_table(titles, [_row(entry) for entry in entries], right=("ID", "AMOUNT", "BALANCE"))
    if len(entries) == limit:
        print(f"There may be more: --before {entries[-1].id}", file=sys.stderr)


def _check_amount(amount: int, kind: Kind) -> None:
    if amount == 0 or abs(amount) > CREDITS_MAX:
        raise typer.BadParameter(f"expected 1 to {CREDITS_MAX} credits", param_hint="AMOUNT")
    if amount < 0 and kind is not Kind.adjustment:
        raise typer.BadParameter("credits are taken back only with --kind adjustment", param_hint="AMOUNT")


def _document(entry: Entry) -> dict[str, Any]:
    return dataclasses.asdict(entry)


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        entry.id,
        shown_time(entry.created_at),
        entry.kind,
        f"{entry.amount:+d}",
        entry.balance_after,
        entry.route,
        entry.request_id,
        entry.reason,
        entry.reference,
    )
