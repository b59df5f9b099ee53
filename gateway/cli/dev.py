"""dev: a gateway, something to sell behind it, and a key to buy with."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.migrate import migrate
from gateway.cli.options import DEFAULT_CONFIG, ConfigFile, load, wiring_of, with_provider
from gateway.cli.output import shown_credits
from gateway.cli.serve import Host, Port, with_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.config.tree import Config
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
    """Serve with a stand-in persona service behind, and print a funded key and calls to paste.

    Uses the config and its database as they are; each start makes a new key for the user `demo`. Unless the config
    names Stripe, credits are bought at a stand-in for it. With --provider unkey a stand-in for Unkey runs beside it
    too, and the database is a temporary one.
    """
    from gateway.cli.keeper import keeper
    from gateway.cli.persona import persona_service
    from gateway.cli.shop import send_webhooks, shop
    from gateway.database.engine import is_postgres

    loaded = with_server(load(context, config), host=host, port=port)
    if is_postgres(loaded.database.url.get_secret_value()):
        migrate(context, config)
    amount = loaded.credits.signup_credits
    with (
        keeper(loaded, provider) as (kept, unkey),
        persona_service(kept) as (behind, personas),
        shop(behind) as (serving, stripe),
    ):
        secret, key = with_provider(
            context, serving, lambda provider: provider.create(USER, credits=amount, name="gateway dev")
        )

        def tell(addresses: Addresses) -> None:
            if stripe is not None:
                send_webhooks(serving, stripe, addresses.server)
            stand_ins = {"personas": personas, "unkey": unkey, "stripe": stripe}
            _print_start(addresses, stand_ins, serving, secret, key)

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
    for line in _curls(addresses.server, config, secret):
        print(line + "\n")
    print("Ctrl-C stops everything.", flush=True)


def _curls(server: str, config: Config, secret: str) -> Iterator[str]:
    """Calls to paste: one that costs credits, and one that buys some."""
    route = next((route for route in config.routes if route.cost and "{" not in route.path), None)
    if route is not None:
        body = '{"seed": 7}' if route.methods[0] in ("POST", "PUT", "PATCH") else None
        yield _curl(["-i", "-X", route.methods[0], server + route.path], secret, body)
    if config.billing.stripe is not None and config.billing.packs:
        asked = json.dumps({"pack": config.billing.packs[0].id, "quantity": 1})
        yield _curl(["-X", "POST", server + "/checkout"], secret, asked)


def _curl(start: Sequence[str], secret: str, body: str | None) -> str:
    import shlex

    parts = ["curl", *start, "-H", f"Authorization: Bearer {secret}"]
    if body is not None:
        parts += ["-H", "Content-Type: application/json", "-d", body]
    return shlex.join(parts)
