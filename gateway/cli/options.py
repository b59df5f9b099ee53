"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from gateway.cli.wiring import Wiring

if TYPE_CHECKING:
    from gateway.config.tree import Config
    from gateway.credits.provider import CreditsProvider

Result = TypeVar("Result")

ConfigFile = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The config file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="A key's public name (key_…), not its secret.")]
DEFAULT_CONFIG = Path("config.yaml")


def new_group(help: str) -> typer.Typer:
    """A group of commands. Plain help: the same on a terminal, in a pipe and in docs/cli.md."""
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"terminal_width": 80},
    )


def wiring_of(context: typer.Context) -> Wiring:
    wiring = context.obj
    assert isinstance(wiring, Wiring)
    return wiring


def load(context: typer.Context, file: Path) -> Config:
    """The config. Raises ConfigError."""
    from gateway.config.load import load_config

    return load_config(file, wiring_of(context).environ)


def with_provider(
    context: typer.Context, config: Config, work: Callable[[CreditsProvider], Awaitable[Result]]
) -> Result:
    """Open the provider, do the work with it, close it."""
    import asyncio

    async def run() -> Result:
        async with wiring_of(context).open_provider(config) as provider:
            return await work(provider)

    return asyncio.run(run())
