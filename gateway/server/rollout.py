"""A new config for all workers or for none: the supervisor's side, without a loop and threads.

    read and check the files, once → Prepare to every worker → all can → Ended(applied) to every worker
                                                             → one can't, or is silent → Ended(refused)

All workers are given the very Config that was checked here, not a file to read again, so no two can differ. A worker
that dies meanwhile is not waited for: its successor is forked with what is in force by then.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from gateway.config.masking import secrets_of
from gateway.config.reload import WATCH_SECONDS, Outcome, Proposal, Reloader
from gateway.observe.logs import redact_anew, set_level
from gateway.server.controls import AskReload, Ended, Prepare, Prepared, SetLevel

logger = logging.getLogger(__name__)

PREPARE_SECONDS = 10.0
"""Longest wait for all workers to prepare."""


class Rollout:
    """Times are `time.monotonic()` seconds."""

    def __init__(self, reloader: Reloader) -> None:
        self._reloader = reloader
        self._workers: dict[int, Connection] = {}
        self._wanted: deque[tuple[str, int, int]] = deque()
        """Reloads that were asked for: why, by which worker, its token."""
        self._number = 0
        self._proposal: Proposal | None = None
        self._why = ""
        self._askers: list[tuple[int, int]] = []
        self._waiting_for: set[int] = set()
        self._silent: set[int] = set()
        """Workers that still owe an answer to a reload that was given up."""
        self._give_up_at = 0.0
        self._look_at = time.monotonic() + WATCH_SECONDS

    @property
    def reloader(self) -> Reloader:
        return self._reloader

    @property
    def is_under_way(self) -> bool:
        """Meanwhile no worker may be started: it would have neither the old config for sure nor the new one."""
        return self._proposal is not None

    @property
    def connections(self) -> list[Connection]:
        return list(self._workers.values())

    @property
    def next_at(self) -> float:
        """When `step` has something to do, if nobody says anything before."""
        return self._give_up_at if self._proposal is not None else self._look_at

    def make_pipe(self) -> tuple[Connection, Connection]:
        """The supervisor's end and a worker's."""
        return Pipe()

    def add(self, worker: int, connection: Connection) -> None:
        self._workers[worker] = connection

    def remove(self, worker: int) -> None:
        connection = self._workers.pop(worker, None)
        if connection is not None:
            connection.close()
        self._silent.discard(worker)
        if worker in self._waiting_for:
            self._waiting_for.discard(worker)
            self._take_if_all_can()

    def want(self, why: str, worker: int = 0, token: int = 0) -> None:
        """Ask for a reload; `step` begins it."""
        self._wanted.append((why, worker, token))

    def step(self) -> None:
        """Begin what is wanted, and give up what takes too long."""
        now = time.monotonic()
        if self._proposal is not None:
            if now >= self._give_up_at:
                self._silent |= self._waiting_for
                self._refuse([f"worker {worker} does not answer" for worker in sorted(self._waiting_for)])
            return
        if now >= self._look_at:
            self._look_at = now + WATCH_SECONDS
            if self._reloader.has_changed():
                self.want("a file has changed")
        if self._wanted:
            self._begin()

    def read_from(self, connection: Connection) -> None:
        """A worker said something, or has gone."""
        worker = next((worker for worker, other in self._workers.items() if other is connection), None)
        if worker is None:
            return
        try:
            message = connection.recv()
        except (EOFError, OSError):
            self.remove(worker)
            return
        match message:
            case AskReload():
                self.want("asked by an operator", worker, message.token)
            case SetLevel():
                self._set_level(message, worker)
            case Prepared():
                self._on_prepared(message, worker)

    def _begin(self) -> None:
        """One reload answers all that were asked for until now."""
        self._why = self._wanted[0][0]
        self._askers = [(worker, token) for _, worker, token in self._wanted]
        self._wanted.clear()
        self._number += 1
        found = self._reloader.read(self._why)
        if isinstance(found, Outcome):
            self._tell(found)
        elif self._silent:
            self._refuse([f"worker {worker} has not answered the last reload yet" for worker in sorted(self._silent)])
        else:
            self._proposal = found
            self._give_up_at = time.monotonic() + PREPARE_SECONDS
            self._waiting_for = set(self._workers)
            for worker in list(self._workers):
                self._send(worker, Prepare(self._number, found.config))
            self._take_if_all_can()

    def _on_prepared(self, message: Prepared, worker: int) -> None:
        self._silent.discard(worker)
        if self._proposal is None or message.number != self._number:
            return
        self._waiting_for.discard(worker)
        if message.problem:
            self._refuse([message.problem])
        else:
            self._take_if_all_can()

    def _take_if_all_can(self) -> None:
        if self._proposal is not None and not self._waiting_for:
            proposal, self._proposal = self._proposal, None
            level = self._reloader.config.log.level
            # Workers that are forked later log as this process does.
            redact_anew(secrets_of(proposal.config))
            if proposal.config.log.level != level:
                set_level(proposal.config.log.level)
            self._tell(self._reloader.take(proposal, self._why))

    def _refuse(self, problems: list[str]) -> None:
        self._proposal = None
        self._waiting_for = set()
        self._tell(self._reloader.refuse(problems, self._why))

    def _tell(self, outcome: Outcome) -> None:
        for worker in list(self._workers):
            tokens = tuple(token for asker, token in self._askers if asker == worker)
            self._send(worker, Ended(self._number, outcome, self._reloader.state, tokens))
        self._askers = []

    def _set_level(self, message: SetLevel, asker: int) -> None:
        set_level(message.level)
        logger.warning("the log level is %s now", message.level)
        for worker in list(self._workers):
            self._send(worker, SetLevel(message.level, message.token if worker == asker else 0))

    def _send(self, worker: int, message: Prepare | Ended | SetLevel) -> None:
        try:
            self._workers[worker].send(message)
        except OSError:
            self.remove(worker)  # it is dying; the supervisor starts another
