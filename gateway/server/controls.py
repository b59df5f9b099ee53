"""What ops can ask of a running gateway, whichever of its workers they reach: a reload, another log level.

`SoleWorker` does it itself. `SupervisedWorker` asks the supervisor (rollout.py), who has it done by all workers: what
is asked of one happens in each of them, or in none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, Protocol

from gateway.config.reload import WATCH_SECONDS, Outcome, Proposal, Reloader, ReloadState
from gateway.config.tree import Config
from gateway.errors import GatewayError
from gateway.observe.logs import set_level

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 20.0
"""Longest wait for the supervisor; its own for all workers is shorter."""


class LiveApp(Protocol):
    """An application that takes another config while it serves: `prepare` opens, `commit` swaps, at once."""

    def prepare(self, config: Config) -> Any:
        """What `commit` or `discard` wants; nothing changes yet. Raises ValueError, OSError for what can't be used."""

    def commit(self, prepared: Any) -> None: ...

    def discard(self, prepared: Any) -> None: ...

    def report(self, state: ReloadState) -> None:
        """Show it in the metrics and the readiness."""


class Controls(Protocol):
    """How a worker is steered. `open` on its loop, once the application has started."""

    def open(self, app: LiveApp) -> None: ...

    def close(self) -> None: ...

    def hang_up(self) -> None:
        """SIGHUP came."""

    async def reload(self) -> Outcome:
        """Read the files anew now. Raises GatewayError where that can't even be tried."""

    async def set_log_level(self, level: str) -> None:
        """For all workers, until a config with another one is taken."""


class SoleWorker:
    """The only process: it reads the files in a thread and swaps on its loop."""

    def __init__(self, reloader: Reloader) -> None:
        self._reloader = reloader
        self._app: LiveApp | None = None
        self._task: asyncio.Task[None] | None = None
        self._busy = asyncio.Lock()
        self._wanted = asyncio.Event()

    def open(self, app: LiveApp) -> None:
        self._app = app
        app.report(self._reloader.state)
        self._task = asyncio.create_task(self._watch(), name="watch the config")

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def hang_up(self) -> None:
        self._wanted.set()

    async def reload(self) -> Outcome:
        return await self._reload("asked by an operator")

    async def set_log_level(self, level: str) -> None:
        set_level(level)
        logger.warning("the log level is %s now", level)

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            try:
                if self._wanted.is_set():
                    self._wanted.clear()
                    await self._reload("SIGHUP")
                elif await self._has_changed():
                    await self._reload("a file has changed")
            except Exception:  # a defect must not end the watch
                logger.exception("the config could not be reloaded")

    async def _has_changed(self) -> bool:
        async with self._busy:
            return await asyncio.to_thread(self._reloader.has_changed)

    async def _reload(self, why: str) -> Outcome:
        assert self._app is not None
        async with self._busy:
            found = await asyncio.to_thread(self._reloader.read, why)
            outcome = self._take(self._app, found, why) if isinstance(found, Proposal) else found
            self._app.report(self._reloader.state)
            return outcome

    def _take(self, app: LiveApp, proposal: Proposal, why: str) -> Outcome:
        try:
            prepared = app.prepare(proposal.config)
        except (ValueError, OSError) as error:
            return self._reloader.refuse([str(error)], why)
        app.commit(prepared)
        return self._reloader.take(proposal, why)


# What the supervisor and its workers say to each other. A token is the worker's, to know what it asked for.


@dataclass(frozen=True, slots=True)
class Prepare:
    """To each worker: could you serve by this?"""

    number: int
    config: Config


@dataclass(frozen=True, slots=True)
class Prepared:
    """From each: yes, or what stands against it."""

    number: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """To each: what became of it. Where it was applied, serve by it."""

    number: int
    outcome: Outcome
    state: ReloadState
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AskReload:
    """From a worker that an operator has asked."""

    token: int


@dataclass(frozen=True, slots=True)
class SetLevel:
    """From a worker that was asked, and then to each. `token` is that worker's; 0 for all others."""

    level: str
    token: int = 0


class SupervisedWorker:
    """One of several: all it does is what the supervisor says."""

    def __init__(self, connection: Connection, state: ReloadState, stop: Callable[[], None]) -> None:
        self._connection = connection
        self._state = state
        self._stop = stop
        self._app: LiveApp | None = None
        self._prepared: tuple[int, Any] | None = None
        self._tokens = count(1)
        self._asked: dict[int, asyncio.Future[Outcome | None]] = {}

    def open(self, app: LiveApp) -> None:
        self._app = app
        app.report(self._state)
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._listen)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._connection.fileno())

    def hang_up(self) -> None:
        """The supervisor's to hear: a signal to a worker alone changes nothing."""

    async def reload(self) -> Outcome:
        outcome = await self._ask(AskReload)
        assert outcome is not None
        return outcome

    async def set_log_level(self, level: str) -> None:
        await self._ask(lambda token: SetLevel(level, token))

    async def _ask(self, make: Callable[[int], AskReload | SetLevel]) -> Outcome | None:
        token = next(self._tokens)
        answer: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._asked[token] = answer
        try:
            self._connection.send(make(token))
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except (OSError, TimeoutError) as error:
            raise GatewayError("The supervisor does not answer.", cause=f"{error}") from error
        finally:
            del self._asked[token]

    def _listen(self) -> None:
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            self.close()  # the supervisor has gone; the worker hears of that elsewhere, and stops
            return
        match message:
            case Prepare():
                self._prepare(message)
            case Ended():
                self._end(message)
            case SetLevel():
                set_level(message.level)
                self._answer(message.token, None)

    def _prepare(self, message: Prepare) -> None:
        assert self._app is not None
        problem = ""
        try:
            self._prepared = message.number, self._app.prepare(message.config)
        except Exception as error:
            problem = f"{error}" or type(error).__name__
            if not isinstance(error, ValueError | OSError):
                logger.exception("the config could not be prepared")
        self._connection.send(Prepared(message.number, problem))

    def _end(self, message: Ended) -> None:
        assert self._app is not None
        if self._prepared is not None:
            number, prepared = self._prepared
            self._prepared = None
            if message.outcome.result == "applied" and message.number == number:
                self._commit(self._app, prepared)
            else:
                self._app.discard(prepared)
        self._app.report(message.state)
        for token in message.tokens:
            self._answer(token, message.outcome)

    def _commit(self, app: LiveApp, prepared: Any) -> None:
        try:
            app.commit(prepared)
        except Exception:  # the others have it: this worker must not go on by another price list
            logger.critical("a config that all have taken can't be taken here: this worker stops", exc_info=True)
            self._stop()

    def _answer(self, token: int, outcome: Outcome | None) -> None:
        answer = self._asked.get(token)
        if answer is not None and not answer.done():
            answer.set_result(outcome)
