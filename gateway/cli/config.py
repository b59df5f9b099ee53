"""check, schema and routes: what the config says."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.failure import MISUSED, tell_problems
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile, load
from gateway.cli.output import print_json, print_table
from gateway.config.problem import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config.tree import Config, RouteSection


def check(context: typer.Context, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Say everything that is wrong with the config. Opens nothing and changes nothing.

    Exit code 2 when something is wrong.
    """
    loaded = load_checked(context, config, as_json=as_json)
    if as_json:
        print_json({"ok": True, "file": str(config), **counts_of(loaded), "problems": []})
    else:
        print(f"{config}: {fine(loaded)}")


def load_checked(context: typer.Context, file: Path, *, as_json: bool) -> Config:
    """The config; or its problems are told, as lines or as a document, and the command ends."""
    try:
        return load(context, file)
    except ConfigError as error:
        if as_json:
            problems = [dataclasses.asdict(problem) for problem in error.problems]
            print_json({"ok": False, "file": str(file), "problems": problems})
        else:
            tell_problems(error)
        raise typer.Exit(MISUSED) from None


def counts_of(config: Config) -> dict[str, int]:
    return {"routes": len(config.routes), "upstreams": len(config.upstreams), "packs": len(config.billing.packs)}


def fine(config: Config) -> str:
    """That it is, and what is in it."""
    listed = ", ".join(f"{count} {name if count != 1 else name[:-1]}" for name, count in counts_of(config).items())
    return f"fine ({listed})"


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/config.md instead.")] = False,
    openapi: Annotated[bool, typer.Option("--openapi", help="Print the HTTP API's OpenAPI document instead.")] = False,
) -> None:
    """Print the config's JSON Schema, for editors."""
    if openapi:
        from gateway.api.build import openapi_document

        print(openapi_document(), end="")
        return
    from gateway.config.reference import config_reference
    from gateway.config.schema import editor_schema_text

    print(config_reference() if markdown else editor_schema_text(), end="")


def routes(context: typer.Context, config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Print the price list: every route and what a call costs."""
    loaded = load(context, config)
    listed = [_listed(route) for route in loaded.routes]
    if as_json:
        print_json(listed)
        return
    rows = [
        (",".join(route.methods), route.path, route.upstream, _targets(loaded, route), _price(route))
        for route in loaded.routes
    ]
    print_table(("METHODS", "PATH", "UPSTREAM", "TARGETS", "CREDITS"), rows, right=("CREDITS",))


def _listed(route: RouteSection) -> dict[str, Any]:
    cost: int | None = None
    settle: str | None = None
    if isinstance(route.cost, int):
        cost = route.cost
    elif route.cost is not None:
        cost, settle = route.cost.hold, route.cost.settle
    return {
        "path": route.path,
        "methods": list(route.methods),
        "upstream": route.upstream,
        "public": route.public,
        "cost": cost,
        "settle": settle,
        "permission": route.permission or None,
        "rate_limit": route.rate_limit and route.rate_limit.model_dump(),
    }


def _price(route: RouteSection) -> str:
    if route.cost is None:
        return "public"
    if isinstance(route.cost, int):
        return str(route.cost)
    return f"at most {route.cost.hold} ({route.cost.settle})"


def _targets(config: Config, route: RouteSection) -> str:
    return ",".join(config.upstreams[route.upstream].base_urls)


def add_commands(app: typer.Typer) -> None:
    for command in (check, schema, routes):
        app.command()(command)
