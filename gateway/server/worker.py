"""One worker: uvicorn on uvloop with our protocol for callers, the admin listener beside it, and the drain.

The drain, in order: listening sockets are emptied and closed, connections finish what runs, at the limit the rest is
cancelled and given a moment to end its holds, then the application's lifespan ends. It always ends with exit code 0:
being told to stop is no failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import uvicorn
import uvloop

from gateway.deadlines import Deadlines
from gateway.server.limits import Limits
from gateway.server.listener import Listener
from gateway.server.open_files import fit, fit_admin, raise_open_files_max

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from gateway.config.tree import Config
    from gateway.server.controls import Controls, LiveApp
    from gateway.server.protocol import HttpProtocol
    from gateway.server.sockets import Sockets

AppFactory = Callable[["Config"], "tuple[ASGIApp, ASGIApp | None]"]
"""Makes the callers' and the admin application. Called once in each worker, inside its running loop. Only the first
one gets lifespan events, and its `watch(listener)`, `steer(controls)` and `drain()` are called where it has them."""

CANCELLED_GRACE_SECONDS = 5.0
"""After the drain limit, how long cancelled calls may take to clean up behind them."""
DRAIN_LIMIT = "the drain limit is reached"
"""The message of that cancellation. A caller who leaves cancels without one: the failure is ours here, not his."""
POLL_SECONDS = 0.02
GARBAGE_OBJECTS = 10_000
"""How many objects more than before make the collector look for cycles. Calls make many objects and no cycles, and it
looked every ten calls: 3 % of a call's CPU."""

EXIT_FAILURE = 1

logger = logging.getLogger(__name__)


class Worker:
    """`run` serves until it is told to stop: by SIGTERM or SIGINT, by `stop`, or by `supervisor_pipe` ending."""

    def __init__(
        self,
        config: Config,
        factory: AppFactory,
        sockets: Sockets,
        *,
        on_ready: Callable[[], None],
        supervisor_pipe: int | None = None,
        controls: Controls | None = None,
    ) -> None:
        self._config = config
        self._factory = factory
        self._sockets = sockets
        self._on_ready = on_ready
        self._supervisor_pipe = supervisor_pipe
        self._controls = controls
        self._app: ASGIApp | None = None
        self._server: DrainingServer | None = None
        self._signals: set[int] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> int:
        """The exit code: 0 after a drain, 1 if the application did not start."""
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except SystemExit:  # uvicorn's way to say that the lifespan did not start; the log has the reason
            return EXIT_FAILURE
        except Exception:
            logger.exception("the worker can't start")
            return EXIT_FAILURE
        return 0

    def stop(self) -> None:
        """Begin the drain; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop)
        limits = fit(Limits.of(self._config.server), self._config, raise_open_files_max())
        app, admin_app = self._factory(self._config)
        self._app = app
        callers = Listener(app, limits, deadlines)
        watch = getattr(app, "watch", None)
        if watch is not None:
            watch(callers)
        steer = getattr(app, "steer", None)
        if steer is not None and self._controls is not None:
            steer(self._controls)
        admin = Listener(admin_app, fit_admin(limits), deadlines) if admin_app is not None else None
        self._server = DrainingServer(self._config, callers, admin, self._sockets)
        self._listen_for_signals(loop)
        try:
            await self._server.serve(sockets=[self._sockets.server])
        finally:
            if self._controls is not None:
                self._controls.close()
            deadlines.close()

    def _listen_for_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._server is not None
        self._server.on_started = self._on_started
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop, number)
            if self._controls is not None:
                loop.add_signal_handler(signal.SIGHUP, self._controls.hang_up)
        if self._supervisor_pipe is not None:
            loop.add_reader(self._supervisor_pipe, self._on_supervisor_gone)

    def _on_started(self) -> None:
        # What was made until now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        if self._controls is not None:
            self._controls.open(cast("LiveApp", self._app))
        self._on_ready()

    def _on_supervisor_gone(self) -> None:
        """Nobody would restart or stop this worker any more, and it must not keep the port from a new gateway."""
        assert self._supervisor_pipe is not None
        asyncio.get_running_loop().remove_reader(self._supervisor_pipe)
        logger.warning("the supervisor is gone; this worker stops too")
        self._stop()

    def _stop(self, number: int = 0) -> None:
        """The first time: drain. The second time by the same signal: don't wait for what runs. (Ctrl-C reaches a worker
        twice: as SIGINT from the terminal, and as SIGTERM from the supervisor.)"""
        if self._server is not None:
            self._server.should_exit = True
            self._server.force_exit = number in self._signals
        self._signals.add(number)


class DrainingServer(uvicorn.Server):
    """uvicorn's server with an admin listener and our drain, and without its signal handling (it dies of the signal
    that stopped it)."""

    def __init__(self, config: Config, callers: Listener, admin: Listener | None, sockets: Sockets) -> None:
        super().__init__(
            uvicorn.Config(
                callers.app,
                http=callers,  # type: ignore[arg-type]  # what uvicorn does with it is to call it
                ws="none",
                interface="asgi3",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
            )
        )
        self.on_started: Callable[[], None] = _nothing
        self._drain_timeout_seconds = config.server.drain_timeout_seconds
        self._callers = callers
        self._admin = admin
        self._sockets = sockets

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        if self._admin is not None and self._sockets.admin is not None:
            self._admin.server_state = self.server_state
            self.servers.append(await loop.create_server(self._admin, sock=self._sockets.admin))
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        drain = getattr(self._callers.app, "drain", None)
        if drain is not None:
            drain()
        await self._stop_accepting()
        for connection in self._connections():
            connection.shutdown()
        if not await self._idle_within(self._drain_timeout_seconds):
            logger.warning("the drain limit is reached; %d calls are cut", len(self.server_state.tasks))
            self._cancel_calls()
            if not await self._idle_within(CANCELLED_GRACE_SECONDS, tasks_only=True):
                logger.error("%d calls did not end when cancelled", len(self.server_state.tasks))
        for connection in self._connections():
            connection.abort()
        await self.lifespan.shutdown()

    async def _stop_accepting(self) -> None:
        """Close the listening sockets, but first take in who is already in their queues: the close would reset them."""
        loop = asyncio.get_running_loop()
        for listener, accepting in ((self._callers, self._sockets.server), (self._admin, self._sockets.admin)):
            if listener is None or accepting is None:
                continue
            listener.draining = True
            while True:
                try:
                    accepted, _ = accepting.accept()
                except OSError:
                    break
                accepted.setblocking(False)
                await loop.connect_accepted_socket(listener, accepted)
        for server in self.servers:
            server.close()
        self._sockets.close()

    def _connections(self) -> list[HttpProtocol]:
        return cast("list[HttpProtocol]", list(self.server_state.connections))

    def _cancel_calls(self) -> None:
        for connection in self._connections():
            if connection.exchange is not None:
                connection.exchange.cancel(DRAIN_LIMIT)
        for task in list(self.server_state.tasks):
            task.cancel(DRAIN_LIMIT)

    async def _idle_within(self, seconds: float, *, tasks_only: bool = False) -> bool:
        state = self.server_state
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + seconds
        while state.tasks or (state.connections and not tasks_only):
            if loop.time() >= give_up_at or (self.force_exit and not tasks_only):
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True


def _nothing() -> None:
    """Until there is something to call."""
