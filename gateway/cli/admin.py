"""The admin listener of a running gateway, as commands speak to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.failure import CommandFailed
from gateway.cli.options import load

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from gateway.config.tree import Config

Admin = Annotated[
    str | None,
    typer.Option("--admin", metavar="URL", help="The running gateway's admin listener.", show_default="the config's"),
]
WAIT_SECONDS = 30.0
_EVERY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


def ask(context: typer.Context, config: Path, admin: str | None, method: str, path: str, **options: Any) -> Any:
    """The answer's status and text. Raises CommandFailed where nobody answers, ConfigError without `admin`."""
    import httpx

    base = admin or _address_of(load(context, config))
    try:
        # Not through a proxy: what is asked is this machine, or its neighbour.
        with httpx.Client(timeout=WAIT_SECONDS, trust_env=False) as client:
            return _checked(client.request(method, base.rstrip("/") + path, **options), base)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandFailed(f"no gateway answers on {base}: {error}; name its admin listener with --admin") from error


def _checked(response: httpx.Response, base: str) -> httpx.Response:
    if response.headers.get("content-type") == "application/problem+json":
        problem = response.json()
        raise CommandFailed(f"{base} says: {problem['title']}: {problem.get('detail', '')}".rstrip(": "))
    if response.status_code == 404 or response.status_code >= 500:
        raise CommandFailed(f"{base} answers {response.status_code}: is it the admin listener?")
    return response


def _address_of(config: Config) -> str:
    section = config.admin
    if section is None:
        raise CommandFailed("the config turns the admin listener off (admin: null); send SIGHUP to the main process")
    if not section.port:
        raise CommandFailed("admin.port is 0, so the config does not say where it listens; name it with --admin")
    host = _EVERY_HOST.get(section.host, section.host)
    return f"http://[{host}]:{section.port}" if ":" in host else f"http://{host}:{section.port}"
