"""The supervisor of several workers: starts them, restarts those that die, passes the order to stop on.

Workers are forked, and before anything with a loop or a thread exists in this process: the bound sockets, the config
and the application's factory are simply there in the child (nothing has to be pickled or importable), a restart takes
milliseconds and reads no file that may have changed since. A config that is changed meanwhile (rollout.py) is in the
next fork too. The price is the rule just told: this module and what it
calls in the parent must stay without loop and threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

from gateway.server.controls import SupervisedWorker
from gateway.server.worker import CANCELLED_GRACE_SECONDS, EXIT_FAILURE, Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from types import FrameType

    from gateway.config.tree import Config
    from gateway.server.rollout import Rollout
    from gateway.server.sockets import Sockets
    from gateway.server.worker import AppFactory

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP)
SHORT_LIFE_SECONDS = 1.0
"""A worker that lived shorter than this died at once: the next one waits, twice as long each time."""
BACK_OFF_FIRST_SECONDS = 0.1
BACK_OFF_MAX_SECONDS = 5.0
STOP_GRACE_SECONDS = CANCELLED_GRACE_SECONDS + 5.0
"""After the drain limit, how long a worker may take to end before it is killed."""

logger = logging.getLogger(__name__)


class Supervisor:
    """`run` keeps `config.server.workers` workers alive until SIGTERM or SIGINT, and returns the exit code."""

    def __init__(
        self,
        config: Config,
        factory: AppFactory,
        sockets: Sockets,
        on_ready: Callable[[], None],
        rollout: Rollout | None = None,
    ) -> None:
        self._config = config
        self._factory = factory
        self._sockets = sockets
        self._on_ready = on_ready
        self._rollout = rollout
        self._started_at: dict[int, float] = {}
        """When each living worker was started, by its process id."""
        self._restarts_at: list[float] = []
        self._back_off_seconds = BACK_OFF_FIRST_SECONDS
        self._not_ready = config.server.workers
        self._stopping = False
        self._kill_at = 0.0
        self._exit_code = 0
        # The workers watch the other end of `life`: when this process is gone, they go too.
        self._life_read, self._life_write = os.pipe()
        self._ready_read, self._ready_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in SIGNALS:
            if number != signal.SIGHUP or self._rollout is not None:
                signal.signal(number, _woken)
        for _ in range(self._config.server.workers):
            self._start_worker()
        while self._started_at or self._restarts_at:
            self._wait()
            self._bury()
            if self._rollout is not None and not self._stopping and self._not_ready <= 0:
                self._rollout.step()
            self._start_due_workers()
        return self._exit_code

    def _wait(self) -> None:
        """Sleep until a signal, a worker's word that it is ready, or the time to start or kill one."""
        times = [self._kill_at] if self._kill_at else []
        connections: list[Connection] = []
        if self._rollout is None or not self._rollout.is_under_way:
            times += self._restarts_at
        if self._rollout is not None and not self._stopping:
            connections = self._rollout.connections
            if self._not_ready <= 0:
                times.append(self._rollout.next_at)
        timeout = max(0.0, min(times) - time.monotonic()) if times else None
        waited_for: list[int | Connection] = [self._wake_read, self._ready_read, *connections]
        readable, _, _ = select.select(waited_for, [], [], timeout)
        if self._wake_read in readable:
            for number in os.read(self._wake_read, 4096):
                self._on_signal(number)
        for connection in connections:
            if connection in readable and self._rollout is not None:
                self._rollout.read_from(connection)
        if self._ready_read in readable:
            self._count_ready(len(os.read(self._ready_read, 4096)))
        if self._kill_at and time.monotonic() >= self._kill_at:
            logger.error("killing %d workers that did not stop", len(self._started_at))
            self._exit_code = EXIT_FAILURE
            self._kill_at = 0.0
            self._signal_all(signal.SIGKILL)

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            if self._rollout is not None:
                self._rollout.want("SIGHUP")
        elif number != signal.SIGCHLD:
            self._stop()

    def _count_ready(self, count: int) -> None:
        if self._not_ready > 0:
            self._not_ready -= count
            if self._not_ready <= 0 and not self._stopping:
                self._on_ready()

    def _stop(self) -> None:
        """Also the second time: workers take that as the order to stop waiting for their calls."""
        if not self._stopping:
            self._stopping = True
            self._restarts_at.clear()
            self._kill_at = time.monotonic() + self._config.server.drain_timeout_seconds + STOP_GRACE_SECONDS
            # As long as one process holds the socket open, callers could still connect, to nobody.
            self._sockets.close()
        self._signal_all(signal.SIGTERM)

    def _bury(self) -> None:
        """Take note of the workers that ended."""
        while self._started_at:
            worker, status = os.waitpid(-1, os.WNOHANG)
            if not worker:
                return
            started_at = self._started_at.pop(worker, None)
            if self._rollout is not None:
                self._rollout.remove(worker)
            if started_at is not None:
                self._on_worker_end(worker, os.waitstatus_to_exitcode(status), time.monotonic() - started_at)

    def _on_worker_end(self, worker: int, exit_code: int, life_seconds: float) -> None:
        if self._stopping:
            self._exit_code = self._exit_code or (EXIT_FAILURE if exit_code else 0)
        elif self._not_ready > 0 and exit_code == EXIT_FAILURE:
            # It could not start, and has said why: neither could the others.
            self._exit_code = EXIT_FAILURE
            self._stop()
        else:
            short = life_seconds < SHORT_LIFE_SECONDS
            self._back_off_seconds = min(self._back_off_seconds * 2, BACK_OFF_MAX_SECONDS) if short else 0.0
            self._back_off_seconds = max(self._back_off_seconds, BACK_OFF_FIRST_SECONDS)
            logger.error(
                "worker %d ended with %d; starting another in %.1f s", worker, exit_code, self._back_off_seconds
            )
            self._restarts_at.append(time.monotonic() + self._back_off_seconds)

    def _start_due_workers(self) -> None:
        if self._rollout is not None and self._rollout.is_under_way:
            return
        now = time.monotonic()
        due = [at for at in self._restarts_at if at <= now]
        self._restarts_at = [at for at in self._restarts_at if at > now]
        for _ in due:
            self._start_worker()

    def _start_worker(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pipe = self._rollout.make_pipe() if self._rollout is not None else None
        # A signal that comes while the child still has the parent's handlers would be taken for the parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            worker = os.fork()
            if not worker:
                self._be_worker(pipe)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        self._started_at[worker] = time.monotonic()
        if self._rollout is not None and pipe is not None:
            ours, theirs = pipe
            theirs.close()
            self._rollout.add(worker, ours)

    def _be_worker(self, pipe: tuple[Connection, Connection] | None) -> NoReturn:
        """The child's whole life. It never returns into what the parent was doing."""
        exit_code = EXIT_FAILURE
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                # A terminal that hangs up signals everyone: the supervisor alone takes that for the order to reload.
                ignored = number == signal.SIGHUP and self._rollout is not None
                signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for end in (self._life_write, self._ready_read, self._wake_read, self._wake_write):
                os.close(end)
            exit_code = self._make_worker(pipe).run()
        except BaseException:  # noqa: BLE001 - nothing may escape into the parent's stack
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(exit_code)

    def _make_worker(self, pipe: tuple[Connection, Connection] | None) -> Worker:
        config, controls = self._config, None
        if self._rollout is not None and pipe is not None:
            for connection in (*self._rollout.connections, pipe[0]):
                connection.close()
            # What is in force by now, which need not be what stands in the file.
            reloader = self._rollout.reloader
            config, controls = reloader.config, SupervisedWorker(pipe[1], reloader.state, _stop_self)
        return Worker(
            config,
            self._factory,
            self._sockets,
            on_ready=self._tell_ready,
            supervisor_pipe=self._life_read,
            controls=controls,
        )

    def _tell_ready(self) -> None:
        # A supervisor that is gone by now is noticed at the other pipe, and is no failure of this worker's.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._ready_write, b".")

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._started_at:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, number)


def _stop_self() -> None:
    """Drain, as if the supervisor had said so: it will start another worker."""
    signal.raise_signal(signal.SIGTERM)


def _woken(number: int, frame: FrameType | None) -> None:
    """The signal's number is already in the wake-up pipe."""
