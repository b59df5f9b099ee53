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
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admin.app import AdminApp
from gateway.api.build import ControlPlanes
from gateway.api.pricing import CHECKOUT_PATH
from gateway.config.reload import Outcome, ReloadState
from gateway.config.tree import Config, UnkeySection
from gateway.credits.local import LocalProvider, Settings
from gateway.credits.open_holds import read_open_holds
from gateway.credits.provider import CreditsProvider
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.provider import UnkeyProvider, UnkeySettings
from gateway.database.checkpoint import Checkpointer
from gateway.database.engine import Database, open_database
from gateway.database.moving.bookmark import refuse_unfinished
from gateway.database.sqlite import SqliteDatabase
from gateway.deadlines import Deadlines
from gateway.errors import BillingNotConfigured, Conflict, GatewayError
from gateway.gauges import commit_counter, gauges, reload_gauges
from gateway.live import AccessLogs, Live
from gateway.observe.document import send_problem
from gateway.observe.health import Readiness, healthz
from gateway.observe.ids import RequestIds
from gateway.observe.logs import set_level
from gateway.observe.metrics import Metrics
from gateway.proxy.endpoint import Endpoint
from gateway.retirement import Retirement
from gateway.server.controls import Controls
from gateway.server.intake import Intake
from gateway.server.listener import Listener
from gateway.snapshot import Snapshot, Snapshots
from gateway.upstreams.rpc import RpcClient

if TYPE_CHECKING:
    from gateway.billing.desk import OrderDesk
    from gateway.billing.service import Billing
    from gateway.telemetry import Telemetry

logger = logging.getLogger("gateway")


def create_app(config: Config, metrics_directory: Path | None = None) -> tuple[ASGIApp, ASGIApp]:
    """The app for callers and the app for ops. Call it in the worker, on its event loop.

    `metrics_directory` is where several workers share their numbers; None where there is one worker.
    """
    metrics = Metrics(metrics_directory)
    gateway = Gateway(config, metrics)
    return gateway, AdminApp(metrics, gateway)


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
        self._live: Live | None = None
        self._database: Database | None = None
        self._controls: Controls | None = None
        self._reloads = ReloadState()
        metrics.collect_gauges(lambda: reload_gauges(self._reloads))
        self._stack = AsyncExitStack()

    def prepare(self, config: Config) -> Snapshot:
        """Another config, ready to be taken. Raises ValueError or OSError; nothing has changed yet."""
        return self._opened.snapshots.prepare(config)

    def commit(self, snapshot: Snapshot) -> None:
        """New calls go by it from now on; those in flight keep what they began with."""
        self._opened.commit(snapshot)

    def discard(self, snapshot: Snapshot) -> None:
        self._opened.snapshots.discard(snapshot)

    def report(self, state: ReloadState) -> None:
        """Show how reloads went."""
        self._reloads = state
        self._readiness.note("config", state.is_success, "the last change was refused: see the log")

    def steer(self, controls: Controls) -> None:
        """Take what ops ask for to the worker. Called by the worker."""
        self._controls = controls

    @property
    def config(self) -> Config:
        """The one in force."""
        return self._config if self._live is None else self._live.snapshots.current.config

    def describe_upstreams(self) -> list[dict[str, Any]]:
        """Each upstream as this worker sees it, for ops."""
        return [] if self._live is None else self._live.snapshots.describe_upstreams()

    async def list_open_holds(self, *, limit: int, newest: bool) -> list[dict[str, Any]]:
        """Of all processes. `instance` is whose they are. Raises CreditsUnavailable."""
        if self._database is None:
            return []
        found = await self._database.read(partial(read_open_holds, limit=limit, newest=newest))
        now = time.time() * 1000
        return [{**asdict(hold), "age_seconds": round((now - hold.created_at) / 1000, 3)} for hold in found]

    async def reload(self) -> Outcome:
        """Read the config anew, in all workers. Raises GatewayError."""
        if self._controls is None:
            raise Conflict("This gateway was not started from a file that could change.")
        return await self._controls.reload()

    async def set_log_level(self, level: str) -> None:
        """For all workers. Raises GatewayError."""
        if self._controls is None:
            set_level(level)
        else:
            await self._controls.set_log_level(level)

    @property
    def _opened(self) -> Live:
        assert self._live is not None
        return self._live

    def watch(self, listener: Listener) -> None:
        """Show the listener's numbers. Called by the worker that serves this app."""
        self._metrics.collect_gauges(listener.gauges)
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
        return self._serve_lifespan(receive, send)

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
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
        telemetry = _open_telemetry(config, self._metrics, deadlines, stack)
        database = self._database = await _open_database(config, stack)
        provider = await _open_provider(config, database, deadlines, stack, self._metrics, self._readiness)
        if self._intake is not None:
            self._intake.backlog = provider.journal
            provider.journal.on_room = self._intake.on_room
        ids = telemetry.ids if telemetry is not None else RequestIds()
        billing = await _open_billing(config, provider, database, stack)
        planes = ControlPlanes(provider, database, billing, ids=ids, metrics=self._metrics)
        access_logs = AccessLogs(deadlines, stack)
        snapshots = Snapshots(config, planes, self._metrics, deadlines, Retirement(deadlines), access_logs.of)
        stack.push_async_callback(snapshots.aclose)
        stack.push_async_callback(planes.aclose)
        first = snapshots.current
        trace = telemetry.trace if telemetry is not None else None
        endpoint = Endpoint(
            first.routes, provider, first.heads, ids, self._metrics, first.access_log, first.control, trace
        )
        stack.push_async_callback(endpoint.aclose)
        self._endpoint, self._live = endpoint, Live(snapshots, endpoint, access_logs, telemetry)
        self._metrics.collect_gauges(lambda: gauges(self._readiness, snapshots.current.upstreams, loop))
        if billing is not None:
            self._metrics.collect_gauges(lambda: [(name, (), count) for name, count in billing.counts.items()])
        self._readiness.set("database", True)


def _open_telemetry(config: Config, metrics: Metrics, deadlines: Deadlines, stack: AsyncExitStack) -> Telemetry | None:
    if config.telemetry is None:
        return None
    from gateway.telemetry import Telemetry  # the SDK is large: only who wants it waits for it

    telemetry = Telemetry(config, config.telemetry, metrics, deadlines)
    stack.push_async_callback(telemetry.aclose)
    return telemetry


async def _open_database(config: Config, stack: AsyncExitStack) -> Database:
    database = await asyncio.to_thread(open_database, config.database.url.get_secret_value())
    stack.push_async_callback(database.aclose)
    await database.read(refuse_unfinished)
    if isinstance(database, SqliteDatabase):
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
        self.on_commit = commit_counter(metrics) if metrics is not None else None
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


def _public(error: Exception) -> str:
    return (error.cause or error.detail) if isinstance(error, GatewayError) else f"{error}"


async def _not_started(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send_problem(GatewayError("The gateway has not started."), send)
