"""Serve a gateway: bind, start the workers, tell when they are ready, drain when told to stop."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from gateway.server.controls import SoleWorker
from gateway.server.rollout import Rollout
from gateway.server.sockets import CannotListen, Sockets
from gateway.server.worker import EXIT_FAILURE, Worker
from gateway.server.workers import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config.reload import Reloader
    from gateway.config.tree import Config
    from gateway.server.sockets import Addresses
    from gateway.server.worker import AppFactory


def run(
    config: Config,
    factory: AppFactory,
    *,
    on_ready: Callable[[Addresses], None],
    reloader: Reloader | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; the process's exit code.

    `reloader` lets the config change meanwhile; the factory's application must be a LiveApp (controls.py) then.

    `factory(config)` is called in each worker and gives its two applications. `on_ready` is called once, in this
    process, when all workers accept calls. 0 after a drain, also one that hit its limit; 1 when an address is taken
    or the application does not start (the reason is on standard error or in the log).
    """
    try:
        sockets = Sockets.bind(config)
    except CannotListen as error:
        sys.stderr.write(f"gateway: {error}\n")
        return EXIT_FAILURE
    addresses = sockets.addresses

    def tell_ready() -> None:
        on_ready(addresses)

    if reloader is not None:
        # Until somebody listens: the default is to die of it.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if config.server.workers == 1:
            controls = SoleWorker(reloader) if reloader is not None else None
            return Worker(config, factory, sockets, on_ready=tell_ready, controls=controls).run()
        rollout = Rollout(reloader) if reloader is not None else None
        return Supervisor(config, factory, sockets, tell_ready, rollout).run()
    finally:
        sockets.close()
