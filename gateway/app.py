"""Where everything is wired together, once. Start reading here.

    create_app(config) → (app, admin_app)

`app` answers callers: the data plane (proxy/endpoint.py) the paths that are routes, the control plane (gateway/api) the
gateway's own.
`admin_app` answers ops on a listener of its own. Nothing is opened before the server's lifespan says so, and only this
file knows which adapters stand behind the ports.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.build import open_control_plane
from gateway.api.pricing import CHECKOUT_PATH
from gateway.config.tree import Config, Section, UnkeySection
from gateway.credits.local import LocalProvider, Settings
from gateway.credits.provider import CreditsProvider
from gateway.credits.secrets import PREFIX
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.provider import UnkeyProvider, UnkeySettings
from gateway.database.checkpoint import Checkpointer
from gateway.database.engine import Database, open_database
from gateway.database.moving.bookmark import refuse_unfinished
from gateway.deadlines import Deadlines
from gateway.errors import BillingNotConfigured, GatewayError
from gateway.observe.access_log import AccessLog
from gateway.observe.admin import admin_app
from gateway.observe.document import send_problem
from gateway.observe.health import Readiness, healthz
from gateway.observe.ids import RequestIds
from gateway.observe.logs import is_json
from gateway.observe.metrics import Metrics
from gateway.observe.redaction import Redaction
from gateway.observe.shared_counts import Gauge
from gateway.proxy.body import Uploads
from gateway.proxy.endpoint import Endpoint
from gateway.proxy.headers import HeadReader
from gateway.proxy.routes import Route, RouteTable
from gateway.server.intake import Intake
from gateway.server.listener import Listener
from gateway.upstreams.open import open_transports
from gateway.upstreams.rpc import RpcClient
from gateway.upstreams.transport import Transport
from gateway.upstreams.upstream import Upstream

if TYPE_CHECKING:
    from gateway.billing.desk import OrderDesk
    from gateway.billing.service import Billing

logger = logging.getLogger("gateway")


def create_app(config: Config, metrics_directory: Path | None = None) -> tuple[ASGIApp, ASGIApp]:
    """The app for callers and the app for ops. Call it in the worker, on its event loop.

    `metrics_directory` is where several workers share their numbers; None where there is one worker.
    """
    metrics = Metrics(metrics_directory)
    return Gateway(config, metrics), admin_app(metrics)


@asynccontextmanager
async def open_provider(config: Config) -> AsyncIterator[CreditsProvider]:
    """The keeper of keys and credits alone, for the command line. Raises DatabaseError or GatewayError."""
    async with _open_books(config) as (_database, provider):
        yield provider


@asynccontextmanager
async def open_billing(config: Config) -> AsyncIterator[Billing]:
    """Billing for the command line: it does what it is asked for, and nothing by itself.

    Raises DatabaseError or GatewayError; BillingNotConfigured without billing.stripe.
    """
    from gateway.billing.build import make_billing

    if config.billing.stripe is None:
        raise BillingNotConfigured
    async with _open_books(config) as (database, provider):
        billing = make_billing(config, database, provider)
        try:
            yield billing
        finally:
            await billing.aclose()


@asynccontextmanager
async def open_desk(config: Config) -> AsyncIterator[tuple[CreditsProvider, OrderDesk]]:
    """Where a person decides over orders, for the command line. Raises DatabaseError or GatewayError."""
    from gateway.billing.desk import make_desk

    async with _open_books(config) as (database, provider):
        yield provider, make_desk(config, database, provider)


@asynccontextmanager
async def _open_books(config: Config) -> AsyncIterator[tuple[Database, CreditsProvider]]:
    deadlines = Deadlines(asyncio.get_running_loop())
    async with AsyncExitStack() as stack:
        stack.callback(deadlines.close)
        database = await _open_database(config, stack)
        yield database, await _open_provider(config, database, deadlines, stack)


class Gateway:
    """The ASGI app for callers. Opened and closed by the lifespan events of its server."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._readiness = Readiness(["database"] if config.credits.provider == "local" else ["database", "unkey"])
        self._control: dict[bytes, ASGIApp] = {b"/healthz": healthz, b"/readyz": self._readiness.readyz}
        self._endpoint: ASGIApp = _not_started
        self._intake: Intake | None = None
        self._stack = AsyncExitStack()

    def watch(self, listener: Listener) -> None:
        """Show the listener's numbers. Called by the worker that serves this app."""
        self._metrics.collect_gauges(lambda: [("connections_open", (), listener.connections_open)])
        self._metrics.add_refusals(listener.refusals)
        listener.always = self._control
        self._intake = listener.intake

    def drain(self) -> None:
        """Not ready any more. Called by the worker before anything else stops."""
        self._readiness.drain()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Not a coroutine of its own: every wake-up of a call would pass through it.
        if scope["type"] == "http":
            return self._control.get(scope["raw_path"], self._endpoint)(scope, receive, send)
        assert scope["type"] == "lifespan"
        return self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._open()
                except Exception as error:  # noqa: BLE001 - whatever it is, the server must be told that we can't serve
                    logger.critical("can't start: %s", _public(error))
                    await self._stack.aclose()
                    await send({"type": "lifespan.startup.failed", "message": _public(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._stack.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _open(self) -> None:
        """Open what a call needs, in the order in which it is closed backwards."""
        config, loop, stack = self._config, asyncio.get_running_loop(), self._stack
        deadlines = Deadlines(loop)
        stack.callback(deadlines.close)
        deadlines.watch(self._metrics)
        stack.callback(self._metrics.close)
        access_log = self._open_access_log(deadlines)
        database = await _open_database(config, stack)
        provider = await _open_provider(config, database, deadlines, stack, self._metrics, self._readiness)
        if self._intake is not None:
            self._intake.backlog = provider.journal
        transports = open_transports(config.upstreams, deadlines, loop, self._metrics)
        for transport in transports.values():
            stack.push_async_callback(transport.aclose)
        ids = RequestIds()
        billing = await _open_billing(config, provider, database, stack)
        control = open_control_plane(
            config, provider, database, billing, stack, ids=ids, metrics=self._metrics, access_log=access_log
        )
        self._endpoint = Endpoint(
            _routes(config, transports, self._metrics),
            provider,
            HeadReader(config.server.trusted_proxies),
            ids,
            self._metrics,
            access_log,
            control,
        )
        self._metrics.collect_gauges(lambda: _gauges(self._readiness, transports, loop))
        if billing is not None:
            self._metrics.collect_gauges(lambda: [(name, (), count) for name, count in billing.counts.items()])
        self._readiness.set("database", True)

    def _open_access_log(self, deadlines: Deadlines) -> AccessLog | None:
        log = self._config.log
        if not log.access:
            return None
        access_log = AccessLog(
            sys.stderr.fileno(),
            json_lines=is_json(log.format, sys.stderr),
            redaction=Redaction([PREFIX], secrets_of(self._config)),
        )
        deadlines.watch(access_log)
        self._stack.callback(access_log.close)
        return access_log


async def _open_database(config: Config, stack: AsyncExitStack) -> Database:
    database = await asyncio.to_thread(open_database, config.database.url.get_secret_value())
    stack.push_async_callback(database.aclose)
    await database.read(refuse_unfinished)
    checkpointer = Checkpointer(database.path)
    checkpointer.open()
    stack.push_async_callback(asyncio.to_thread, checkpointer.close)
    return database


async def _open_billing(
    config: Config, provider: CreditsProvider, database: Database, stack: AsyncExitStack
) -> Billing | None:
    """What sells, where something is sold; and what tells the app, where it wants to be told."""
    if config.notifications is not None:
        from gateway.billing.notifications import Notifications

        notifications = Notifications(config.notifications, database, keep_days=config.database.keep_days)
        stack.push_async_callback(notifications.aclose)
        await notifications.open()
    if config.billing.stripe is None:
        return None
    from gateway.billing.build import make_billing  # Stripe's SDK is large: only who sells waits for it

    billing = make_billing(config, database, provider)
    stack.push_async_callback(billing.aclose)
    await billing.open()
    return billing


async def _open_provider(
    config: Config,
    database: Database,
    deadlines: Deadlines,
    stack: AsyncExitStack,
    metrics: Metrics | None = None,
    readiness: Readiness | None = None,
) -> LocalProvider | UnkeyProvider:
    make = _make_local_provider if config.credits.provider == "local" else _make_unkey_provider
    provider = make(config, database, deadlines, _Watchers(metrics, readiness))
    stack.push_async_callback(provider.aclose)
    await provider.open()
    if metrics is not None:
        journal = provider.journal
        metrics.collect_gauges(
            lambda: [("holds_open", (), journal.holds_open), ("journal_pending", (), journal.pending)]
        )
    return provider


class _Watchers:
    """Who hears of a provider's commits and health: metrics and readiness, where there are any."""

    def __init__(self, metrics: Metrics | None, readiness: Readiness | None) -> None:
        self.on_commit = _count_commits(metrics) if metrics is not None else None
        self._readiness = readiness

    def health_of(self, check: str) -> Callable[[bool, str], None] | None:
        readiness = self._readiness
        return None if readiness is None else lambda ok, reason: readiness.set(check, ok, reason)


def _make_local_provider(
    config: Config, database: Database, deadlines: Deadlines, watchers: _Watchers
) -> LocalProvider:
    section = config.credits
    settings = Settings(
        hold_timeout_seconds=section.hold_timeout_seconds,
        heartbeat_seconds=section.heartbeat_seconds,
        dead_after_seconds=section.dead_after_seconds,
        checkout=_checkout(config),
    )
    return LocalProvider(
        database, deadlines, settings, on_commit=watchers.on_commit, on_health=watchers.health_of("database")
    )


def _make_unkey_provider(
    config: Config, database: Database, deadlines: Deadlines, watchers: _Watchers
) -> UnkeyProvider:
    section = config.credits
    unkey = section.unkey
    assert unkey is not None  # config/check.py
    settings = UnkeySettings(
        hold_timeout_seconds=section.hold_timeout_seconds,
        heartbeat_seconds=section.heartbeat_seconds,
        dead_after_seconds=section.dead_after_seconds,
        canary_key=unkey.canary_key.get_secret_value() if unkey.canary_key is not None else None,
        checkout=_checkout(config),
    )
    return UnkeyProvider(
        database,
        deadlines,
        open_unkey_client(unkey, deadlines),
        settings,
        on_commit=watchers.on_commit,
        on_health=watchers.health_of("database"),
        on_unkey_health=watchers.health_of("unkey"),
    )


def _checkout(config: Config) -> str | None:
    """Where a caller who is out of credits is sent."""
    return CHECKOUT_PATH if config.billing.stripe is not None else None


def open_unkey_client(section: UnkeySection, deadlines: Deadlines) -> UnkeyClient:
    """Unkey's API on connections of its own: verifies and administration don't wait for each other."""
    loop = asyncio.get_running_loop()
    root_key = section.root_key.get_secret_value()
    admin_root_key = section.admin_root_key
    return UnkeyClient(
        RpcClient(section.base_url, deadlines, loop, connections_max=section.connections_max),
        RpcClient(section.base_url, deadlines, loop, connections_max=8),
        api_id=section.api_id,
        root_key=root_key,
        admin_root_key=admin_root_key.get_secret_value() if admin_root_key is not None else root_key,
        verify_timeout_seconds=section.verify_timeout_seconds,
        write_timeout_seconds=section.write_timeout_seconds,
    )


def _gauges(readiness: Readiness, upstreams: dict[str, Upstream], loop: asyncio.AbstractEventLoop) -> Iterator[Gauge]:
    yield "ready", (), int(readiness.ready)
    yield "tasks", (), len(asyncio.all_tasks(loop))
    for upstream in upstreams.values():
        yield from upstream.gauges()


def _count_commits(metrics: Metrics) -> Callable[[int], None]:
    commits = metrics.counter("database_commits")
    sizes = metrics.histogram("database_batch_size")

    def count(size: int) -> None:
        commits.add()
        sizes.observe(size)

    return count


def _routes(config: Config, transports: Mapping[str, Transport], metrics: Metrics) -> RouteTable:
    uploads = {
        name: Uploads(max(1, len(upstream.targets) * upstream.connections_max // 2))
        for name, upstream in config.upstreams.items()
    }
    return RouteTable(
        [
            (
                section,
                Route(
                    section,
                    transports[section.upstream],
                    metrics.route(section.path),
                    body_max_bytes=config.server.body_max_bytes,
                    uploads=uploads[section.upstream],
                ),
            )
            for section in config.routes
        ]
    )


def secrets_of(section: Section) -> Iterable[str]:
    """Every secret of the configuration, for the filter that keeps them out of the logs."""
    for name in type(section).model_fields:
        yield from _secrets_in(getattr(section, name))


def _secrets_in(value: object) -> Iterable[str]:
    if isinstance(value, SecretStr):
        if value.get_secret_value():
            yield value.get_secret_value()
    elif isinstance(value, Section):
        yield from secrets_of(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets_in(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _secrets_in(item)


def _public(error: Exception) -> str:
    return (error.cause or error.detail) if isinstance(error, GatewayError) else f"{error}"


async def _not_started(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_problem(GatewayError("The gateway has not started."), send)
