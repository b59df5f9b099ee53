"""reconcile: find what no webhook told, and compare the ledger with the keeper of keys."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.failure import FAILED
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, wiring_of
from gateway.cli.output import print_facts, print_json, print_table

if TYPE_CHECKING:
    from gateway.billing.reconcile import Report


def reconcile(
    context: typer.Context,
    days: Annotated[int, typer.Option("--days", min=1, max=365, help="How far back.")] = 3,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Bring every order of the last days to what Stripe says, and tell what was found and done.

    Also lists keys of which the ledger says other than their keeper (drift). Running it twice, or beside a gateway that
    serves, changes nothing more. Exit code 1: something could not be looked at, or a person must look.
    """
    import asyncio

    loaded = load(context, config)

    async def run() -> Report:
        async with wiring_of(context).open_billing(loaded) as billing:
            return await billing.reconcile(days)

    report = asyncio.run(run())
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _print(report)
    if report.failures or report.strays or report.drift:
        raise typer.Exit(FAILED)


def _print(report: Report) -> None:
    drift = report.drift or ()
    print_facts(
        [
            ("days", report.days),
            ("checkouts", report.checkouts),
            ("refunded or disputed", report.payments),
            ("orders changed", len(report.changes)),
            ("strays", len(report.strays)),
            ("failures", len(report.failures)),
            ("keys that drift", len(drift)),
        ]
    )
    if report.changes:
        print()
        rows = [dataclasses.astuple(change) for change in report.changes]
        print_table(("ORDER", "WAS", "IS", "CLAWED WAS", "CLAWED IS"), rows, right=("CLAWED WAS", "CLAWED IS"))
    for title, lines in (("Strays", report.strays), ("Failures", report.failures)):
        if lines:
            print(f"\n{title}:")
            for line in lines:
                print(f"  {line}")
    if drift:
        print()
        keys = [(one.key_id, one.ledger, one.kept, one.kept - one.ledger) for one in drift]
        print_table(("KEY", "LEDGER", "KEPT", "DRIFT"), keys, right=("LEDGER", "KEPT", "DRIFT"))
