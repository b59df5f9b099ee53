"""serve: run the gateway until it is told to stop."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.failure import MISUSED, CommandFailed
from gateway.cli.options import DEFAULT_CONFIG, ConfigFile, wiring_of
from gateway.config.problem import ConfigError, Problem

if TYPE_CHECKING:
    from gateway.config.tree import Config
    from gateway.server.sockets import Addresses

Host = Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Instead of server.host.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65_535, help="Instead of server.port; 0: a free one.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, max=256, help="Instead of server.workers.")]

logger = logging.getLogger("gateway")


def serve(
    context: typer.Context,
    config: ConfigFile = DEFAULT_CONFIG,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what runs and exit 0.

    Changes of the config file are taken while it serves (server.watch_config), and on SIGHUP; see `gateway reload`.
    """
    from gateway.config.source import ConfigSource

    said: list[CommandFailed] = []

    def adjust(loaded: Config) -> Config:
        try:
            return with_server(loaded, host=host, port=port, workers=workers)
        except CommandFailed as error:
            said.append(error)
            raise ConfigError([Problem(str(config), 0, 0, "", str(error))]) from error

    source = ConfigSource(config, wiring_of(context).environ, adjust)
    try:
        loaded = source.load()
    except ConfigError:
        if said:
            raise said[0] from None
        raise
    raise typer.Exit(wiring_of(context).serve(loaded, _tell_ready, source))


def with_server(config: Config, *, host: str | None, port: int | None, workers: int | None = None) -> Config:
    """The config with what the command line says instead. Raises CommandFailed where the two don't go together."""
    from gateway.config.check import check
    from gateway.config.problem import dotted

    said = {"host": host, "port": port, "workers": workers}
    changes = {key: value for key, value in said.items() if value is not None}
    if host == "":
        raise CommandFailed("--host must not be empty", MISUSED)
    changed = config.model_copy(update={"server": config.server.model_copy(update=changes)})
    for finding in check(changed):
        raise CommandFailed(f"{dotted(finding.path)}: {finding.message}", MISUSED)
    return changed


def _tell_ready(addresses: Addresses) -> None:
    admin = f", metrics on {addresses.admin}/metrics" if addresses.admin else ""
    logger.info("listening on %s%s", addresses.server, admin)
