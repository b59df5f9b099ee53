"""dev: a gateway, something to sell behind it, and a key to buy with."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import DEFAULT_CONFIG, ConfigFile, load, wiring_of, with_provider
from gateway.cli.output import shown_credits
from gateway.cli.serve import Host, Port, with_server

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config.tree import Config, RouteSection
    from gateway.credits.provider import ApiKey
    from gateway.server.sockets import Addresses

USER = "demo"


class Provider(StrEnum):
    """Who keeps keys and credits while `dev` runs."""

    local = "local"
    unkey = "unkey"


AProvider = Annotated[
    Provider | None,
    typer.Option(
        "--provider",
        help="local: the config's database. unkey: a stand-in for Unkey, which forgets its keys when it stops.",
        show_default="what the config says",
    ),
]


def dev(
    context: typer.Context,
    config: ConfigFile = DEFAULT_CONFIG,
    host: Host = None,
    port: Port = None,
    provider: AProvider = None,
) -> None:
    """Serve with a stand-in persona service behind, and print a funded key and a call to paste.

    Uses the config and its database as they are; each start makes a new key for the user `demo`. With --provider unkey
    a stand-in for Unkey runs beside it, and the database is a temporary one.
    """
    from gateway.cli.keeper import keeper
    from gateway.cli.persona import persona_service

    loaded = with_server(load(context, config), host=host, port=port)
    amount = loaded.credits.signup_credits
    with keeper(loaded, provider) as (kept, unkey), persona_service(kept) as (serving, personas):
        secret, key = with_provider(
            context, kept, lambda provider: provider.create(USER, credits=amount, name="gateway dev")
        )

        def tell(addresses: Addresses) -> None:
            _print_start(addresses, {"personas": personas, "unkey": unkey}, serving, secret, key)

        code = wiring_of(context).serve(serving, tell)
    raise typer.Exit(code)


def _print_start(
    addresses: Addresses, stand_ins: Mapping[str, str | None], config: Config, secret: str, key: ApiKey
) -> None:
    """For people, and for scripts that wait for the API_KEY line: flushed."""
    print(f"gateway   {addresses.server}")
    if addresses.admin is not None:
        print(f"metrics   {addresses.admin}/metrics")
    for name, address in stand_ins.items():
        if address is not None:
            print(f"{name:8}  {address} (stand-in)")
    print(f"key       {key.key_id} of user {key.user_id}, {shown_credits(key.available)} credits\n")
    print(f"API_KEY={secret}\n")
    route = _shown_route(config)
    if route is not None:
        print(_curl(addresses.server, route, secret) + "\n")
    print("Ctrl-C stops everything.", flush=True)


def _shown_route(config: Config) -> RouteSection | None:
    """The first route with a price that can be called as it stands."""
    priced = (route for route in config.routes if route.cost and "{" not in route.path)
    return next(priced, None)


def _curl(server: str, route: RouteSection, secret: str) -> str:
    import shlex

    parts = ["curl", "-i", "-X", route.methods[0], server + route.path, "-H", f"Authorization: Bearer {secret}"]
    if route.methods[0] in ("POST", "PUT", "PATCH"):
        parts += ["-H", "Content-Type: application/json", "-d", '{"seed": 7}']
    return shlex.join(parts)
