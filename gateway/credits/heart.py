"""Staying alive, and cleaning up after those who did not: the background task of every provider.

It beats, buries the instances whose beat stands still, and ends the holds they left behind (I3).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import Connection

from gateway.credits import instances
from gateway.credits.instances import Orphan
from gateway.credits.journal import Journal
from gateway.database.engine import Database
from gateway.errors import GatewayError

logger = logging.getLogger("gateway.credits")

SIGN_OFF_SECONDS = 2.0
CHORE_SECONDS = 60.0
RETRY_SECONDS = 1.0
"""Between two beats while the database takes none: who sees us not ready is to see soon that we are again."""


class Heart:
    """Beats for one provider. `instance` is the number under which this process owns holds now; 0 before `open`.

    `read_orphans` finds open holds without a living owner; `on_health` hears when the database stops taking holds, and
    when it takes them again; `chores` are what else is done once in CHORE_SECONDS. They have a task of their own, for
    there may be much to do, and a process that beats late is taken for dead: others end its holds.
    """

    def __init__(
        self,
        database: Database,
        read_orphans: Callable[[Connection], Sequence[Orphan]],
        *,
        beat_seconds: float,
        dead_after_seconds: float,
        on_health: Callable[[bool, str], None] | None = None,
        on_commit: Callable[[int], None] | None = None,
        chores: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        self.instance = 0
        self._database = database
        self._read_orphans = read_orphans
        self._beat_seconds = beat_seconds
        self._watch = instances.Watch(time.monotonic, dead_after_seconds)
        self._on_health = on_health
        self._on_commit = on_commit
        self._chores = chores
        self._failing = False
        self._journal: Journal | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self, journal: Journal) -> None:
        """Register, open the journal, end what the dead left behind, and begin to beat."""
        self.instance = await self._database.transaction(instances.register)
        self._journal = journal
        journal.open()
        await self._recover(journal)
        self._tasks.append(asyncio.create_task(self._beat_for_ever(journal), name="heartbeat"))
        if self._chores:
            self._tasks.append(asyncio.create_task(self._do_chores_for_ever(), name="chores"))

    async def aclose(self) -> None:
        """End what is queued, then leave: holds still open become orphans, for a survivor or the next start."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        try:
            if self._journal is not None and not await self._journal.aclose():
                raise TimeoutError("a commit is still under way")
            async with asyncio.timeout(SIGN_OFF_SECONDS):
                await self._database.transaction(lambda connection: instances.unregister(connection, self.instance))
        except (GatewayError, TimeoutError) as error:
            cause = error.cause if isinstance(error, GatewayError) else str(error) or "the database does not answer"
            logger.warning("could not sign off; others will find out by the heartbeat: %s", cause)

    def committed(self, size: int, is_read_only: bool) -> None:
        """The journal's word that it has written so many changes."""
        if self._failing and not is_read_only:
            self._recovered()
        if self._on_commit is not None:
            self._on_commit(size)

    def failed(self, cause: str) -> None:
        """The journal's word that it could not take holds."""
        if not self._failing:
            self._failing = True
            logger.error("the database does not take holds: %s", cause)
        if self._on_health is not None:
            self._on_health(False, "the database does not take holds")

    async def _beat_for_ever(self, journal: Journal) -> None:
        while True:
            await asyncio.sleep(min(self._beat_seconds, RETRY_SECONDS) if self._failing else self._beat_seconds)
            try:
                await self._beat()
                self._recovered()
                await self._recover(journal)
            except GatewayError as error:
                self._watch.restart()
                self.failed(error.cause)
            except Exception:
                # A heart that stops lets the others bury a living process.
                logger.exception("the heartbeat failed; going on")

    async def _do_chores_for_ever(self) -> None:
        while True:
            for chore in self._chores:
                try:
                    await chore()
                except GatewayError:
                    pass  # the beat says when the database does not answer; these can wait
                except Exception:
                    logger.exception("a chore failed; it is tried again")
            await asyncio.sleep(CHORE_SECONDS)

    async def _beat(self) -> None:
        if await self._database.transaction(lambda connection: instances.beat(connection, self.instance)):
            return
        logger.warning("instance %d had been taken for dead; going on under a new number", self.instance)
        self.instance = await self._database.transaction(instances.register)

    async def _recover(self, journal: Journal) -> None:
        beats = await self._database.read(instances.read_beats)
        dead = self._watch.dead(beats, self.instance)
        if dead:
            await self._database.transaction(lambda connection: instances.bury(connection, dead))
        orphans = await self._database.read(self._read_orphans)
        if not orphans:
            return
        for orphan in orphans:
            journal.end_orphan(orphan.hold, orphan.hold.cost if orphan.answered else 0)
        settled = sum(orphan.answered for orphan in orphans)
        doubtful = sum(orphan.is_in_doubt for orphan in orphans)
        logger.warning(
            "ended %d holds of dead processes: %d released, %d settled%s",
            len(orphans),
            len(orphans) - settled - doubtful,
            settled,
            f", {doubtful} in doubt" if doubtful else "",
        )

    def _recovered(self) -> None:
        if self._failing:
            self._failing = False
            logger.warning("the database takes holds again")
            if self._on_health is not None:
                self._on_health(True, "")
