"""What the commands need from the rest of the gateway.

Imported when it is used: `gateway --help` and `gateway check` must not wait for SQLAlchemy and uvicorn. Tests put
their own in place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.cli.failure import CommandFailed

if TYPE_CHECKING:
    from gateway.billing.desk import OrderDesk
    from gateway.billing.service import Billing
    from gateway.config.source import ConfigSource
    from gateway.config.tree import Config
    from gateway.credits.provider import CreditsProvider
    from gateway.database.engine import Database
    from gateway.doctor.diagnosis import Diagnosis
    from gateway.server.sockets import Addresses

OnReady = Callable[["Addresses"], None]
"""Told once, when calls are accepted, and where."""
OnProgress = Callable[[Sequence[str]], None]
"""Told what is still being examined."""


@asynccontextmanager
async def _open_provider(config: Config) -> AsyncIterator[CreditsProvider]:
    from gateway.app import open_provider
    from gateway.database.engine import DatabaseError

    try:
        async with open_provider(config) as provider:
            yield provider
    except DatabaseError as error:
        raise CommandFailed(f"the database can't be opened: {error}") from error


@asynccontextmanager
async def _open_billing(config: Config) -> AsyncIterator[Billing]:
    from gateway.app import open_billing
    from gateway.database.engine import DatabaseError

    try:
        async with open_billing(config) as billing:
            yield billing
    except DatabaseError as error:
        raise CommandFailed(f"the database can't be opened: {error}") from error


@asynccontextmanager
async def _open_desk(config: Config) -> AsyncIterator[tuple[CreditsProvider, OrderDesk]]:
    from gateway.app import open_desk
    from gateway.database.engine import DatabaseError

    try:
        async with open_desk(config) as desk:
            yield desk
    except DatabaseError as error:
        raise CommandFailed(f"the database can't be opened: {error}") from error


@asynccontextmanager
async def _open_for_moving(config: Config) -> AsyncIterator[Database]:
    from gateway.database.engine import DatabaseError
    from gateway.database.moving.opening import open_for_moving

    try:
        async with open_for_moving(config.database.url.get_secret_value()) as database:
            yield database
    except DatabaseError as error:
        raise CommandFailed(f"the database can't be opened: {error}") from error


def _serve(config: Config, on_ready: OnReady, source: ConfigSource | None = None) -> int:
    from functools import partial
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from gateway.app import create_app
    from gateway.config.masking import secrets_of
    from gateway.config.reload import Reloader
    from gateway.observe.logs import configure_logging
    from gateway.server.serve import run

    configure_logging(config.log.level, config.log.format, sys.stderr, secrets=secrets_of(config))
    reloader = Reloader(source, config) if source is not None else None
    if config.server.workers == 1:
        return run(config, create_app, on_ready=on_ready, reloader=reloader)
    # Each worker counts in files here, and whichever is asked adds up what all have counted.
    with TemporaryDirectory(prefix="gateway-metrics-") as directory:
        factory = partial(create_app, metrics_directory=Path(directory))
        return run(config, factory, on_ready=on_ready, reloader=reloader)


def _examine(config: Config, on_progress: OnProgress) -> list[Diagnosis]:
    import asyncio
    import dataclasses

    from gateway.config.masking import secrets_of
    from gateway.credits.secrets import PREFIX
    from gateway.doctor.checkup import examinations_of
    from gateway.doctor.examination import examine
    from gateway.observe.redaction import Redaction

    redaction = Redaction([PREFIX], secrets_of(config))
    return [
        dataclasses.replace(diagnosis, text=redaction.text(diagnosis.text))
        for diagnosis in asyncio.run(examine(examinations_of(config), on_progress))
    ]


@dataclass(frozen=True, slots=True)
class Wiring:
    """The seam between the command line and what it drives."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    open_provider: Callable[[Config], AbstractAsyncContextManager[CreditsProvider]] = _open_provider
    open_billing: Callable[[Config], AbstractAsyncContextManager[Billing]] = _open_billing
    open_desk: Callable[[Config], AbstractAsyncContextManager[tuple[CreditsProvider, OrderDesk]]] = _open_desk
    open_for_moving: Callable[[Config], AbstractAsyncContextManager[Database]] = _open_for_moving
    serve: Callable[..., int] = _serve
    """(config, on_ready, source): the exit code. Without a source the config stays what it is."""
    examine: Callable[[Config, OnProgress], list[Diagnosis]] = _examine
