"""Group commit: holds and ends that arrive together share one transaction.

The event loop collects what arrives in a Batch and commits one batch at a time; what arrives meanwhile is the next
batch. So batches grow with the load and nobody waits for a timer.

Neither a slow disk nor another process's lock nor a server that hangs stops the loop (I9): committer.py says how.
Whoever waits too long is told 503, and if its hold turns out committed after all, it is released.

A commit that fails changed nothing: its holds are refused, its ends are tried again until they succeed. Where not the
database but something in the batch is at fault (a row that SQL refuses), each is tried alone, so that one defect of
ours can't hold up everybody's settlements.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.credits.batch import End, Take, Transaction
from gateway.credits.claims import Claim
from gateway.credits.committer import Committer, LoopCommitter, ThreadCommitter
from gateway.credits.crowd import Crowd
from gateway.credits.pace import Pace
from gateway.credits.pending import Batch, oldest, suspect
from gateway.credits.provider import Hold, Policy
from gateway.database.failure import Kind, kind_of
from gateway.deadlines import NEVER, Deadlines
from gateway.errors import CreditsUnavailable

logger = logging.getLogger("gateway.credits")

BATCH_MAX = 128
"""Holds and ends in one transaction: keeps a commit short and the number of distinct statements small."""
WAITING_MAX = 20_000
"""Holds that may wait; more are refused at once (every queue has a bound)."""
GATHER_TURNS_MAX = 8
"""Turns of the event loop that a batch may take to fill."""
LOCK_WAIT_MS = 250
"""How long a commit waits for another process's transaction at a time. While it waits, what is in it can't be given up:
so this is how late a caller may be told that it can't be served."""
CLOSE_SECONDS = 5.0
"""How long closing waits for what is queued."""
JOIN_SECONDS = 2.0
"""And then for a commit that is under way: a disk that hangs must not keep the process."""
QUARANTINE_SECONDS_MAX = 60.0
"""Longest pause before an end that SQL refuses is tried again."""
RETRY_SECONDS = 0.05
"""Pause before ends are tried again after a commit that failed."""


class Journal:
    """Begins and ends holds. Everything but `_commit` belongs to the event loop's thread.

    `is_remote`: what `open_transaction` opens waits for a server, and blocks nothing.
    """

    def __init__(
        self,
        open_transaction: Callable[[], Transaction],
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        *,
        timeout_seconds: float,
        is_remote: bool = False,
        on_commit: Callable[[int, bool], None] | None = None,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self._open_transaction = open_transaction
        self._loop = loop
        self._deadlines = deadlines
        self._timeout_seconds = timeout_seconds
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._waiting = Batch()
        self._suspects: deque[Batch] = deque()
        self._orphans: set[int] = set()
        self._committing: Batch | None = None
        self._flush_planned = False
        self._is_quiet = self._has_ended = True
        self._gathered = self._turns = 0
        self._idle: asyncio.Future[None] | None = None
        self._transaction: Transaction | None = None
        self._crowd = Crowd(is_remote=is_remote)
        kind = LoopCommitter if is_remote else ThreadCommitter
        self._committer: Committer = kind(self._commit, loop, self._committed)
        self.go_on = self._committer.go_on  # for the store, when the server has answered
        self.on_room: Callable[[], None] = lambda: None  # called when something got through
        self.holds_open = 0
        self._pace = Pace()
        self.full_at = self._pace.full_at  # of those pending, for the door
        self.deadline = NEVER

    def open(self) -> None:
        self._deadlines.watch(self)
        self._committer.start()

    @property
    def pending(self) -> int:
        """Holds and ends not yet committed."""
        running = self._committing
        return self._waiting.size + len(self._suspects) + (running.size if running else 0)

    @property
    def is_stalled(self) -> bool:
        """Whether nothing gets through."""
        return self._pace.is_stalled(self._loop.time())

    def take(
        self, key_hash: bytes, cost: int, route: str, request_id: str, policy: Policy, claim: Claim | None = None
    ) -> asyncio.Future[Hold]:
        """Ask for a hold. The future gives it once it is durable, or raises why not."""
        loop = self._loop
        return self.ask(Take(loop.create_future(), key_hash, cost, route, request_id, loop.time(), policy, claim))

    def ask(self, take: Take) -> asyncio.Future[Hold]:
        """The same, for who made the Take."""
        batch = self._waiting
        if len(batch.takes) >= WAITING_MAX:
            take.future.set_exception(CreditsUnavailable(cause=f"{WAITING_MAX} holds are waiting already"))
            return take.future
        if self.deadline == NEVER:
            self.deadline = take.since + self._timeout_seconds
        batch.takes.append(take)
        # A flood of calls that are refused or free holds nothing, and is a crowd all the same.
        self._plan_flush(is_alone=self._has_ended and not self.holds_open)
        self._has_ended = False
        return take.future

    def end(self, hold: Hold, kept: int | None, reason: str | None, claim: Claim | None = None) -> asyncio.Future[None]:
        """End the hold (kept None: mark it answered). From here on it happens, whoever still waits for it."""
        future: asyncio.Future[None] = self._loop.create_future()
        if not hold.id:
            future.set_result(None)
            return future
        self.finish(End(future, hold, kept, reason, self._loop.time(), claim=claim))
        return future

    def finish(self, end: End) -> None:
        """The same, for who made the End."""
        self._waiting.ends.append(end)
        if self.deadline == NEVER:
            self.deadline = end.since + self._timeout_seconds
        self._has_ended = True
        self._plan_flush(is_alone=self.holds_open == 1 and end.future is not None)

    def end_orphan(self, hold: Hold, kept: int) -> None:
        """End a hold that a dead process left behind, unless it is being done or somebody else was quicker."""
        if hold.id not in self._orphans:
            self._orphans.add(hold.id)
            self.finish(End(None, hold, kept, "gateway died", self._loop.time(), is_orphan=True))

    async def aclose(self) -> bool:
        """Commit what waits, then stop. What the database does not take in time is left for recovery.

        False if a commit is still under way: what is in it may be written yet.
        """
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._committing is not None or self.pending:
                    self._idle = self._loop.create_future()
                    await self._idle
        except TimeoutError:
            logger.warning("the database does not take %d changes; recovery will end their holds", self.pending)
        has_ended = await self._committer.stop(JOIN_SECONDS)
        self._deadlines.unwatch(self)
        if has_ended and self._transaction is not None:
            self._transaction.close()
        return has_ended

    def on_deadline(self, now: float) -> None:
        """Tell those whose own time has come; what they asked for is undone when it is known.

        So who waits for a hold is told within the timeout and one tick. Ends in a commit under way can't be given
        up, for nobody knows yet whether they are written: they are, if need be, as soon as they come back. With another
        process's lock that is LOCK_WAIT_MS later; a disk that hangs holds them up until it returns.
        """
        if self._committing is not None:
            self._refuse_late(self._committing, now, "the database did not commit in time")
            if self._committing.is_unsure:
                self._trust(self._committing, now - self._timeout_seconds)
        self._give_up_waiting(now)
        self._set_deadline()

    def _give_up_waiting(self, now: float) -> None:
        late = now - self._timeout_seconds
        for batch in (self._waiting, *self._suspects):
            self._refuse_late(batch, now, "the database did not take it in time")
            for end in batch.ends:
                if end.since <= late:
                    self._give_up(end)

    @staticmethod
    def _trust(batch: Batch, late: float) -> None:
        """Of an end whose commit may or may not have been done, say that it was: it will be. Told otherwise, a caller
        might have paid for an answer that he did not get."""
        for end in batch.ends:
            if end.since <= late and end.future is not None and not end.future.done():
                end.hold.is_kept |= end.kept is None and end.is_answer
                end.future.set_result(None)

    def _refuse_late(self, batch: Batch, now: float, cause: str) -> None:
        late = now - self._timeout_seconds
        self._refuse([take for take in batch.takes if take.since <= late and not take.future.done()], cause)

    def _give_up(self, end: End) -> None:
        """The end can't be written now, so the caller is told that the call failed, and it must be free: unless its
        answer was under way already. What is to be written is, once the database takes it."""
        if end.future is None or end.future.done():
            return
        if not end.hold.is_kept:
            end.claim = None  # what failed is not done
            if end.kept != 0:
                end.kept = 0
                end.reason = "credits-unavailable"
        end.future.set_exception(CreditsUnavailable(cause="the database did not take the settlement in time"))

    def _plan_flush(self, *, is_alone: bool = False) -> None:
        """`is_alone`: somebody waits for this commit, and no other call is under way."""
        if self._committing is not None:
            return
        if self._crowd.is_half(self._waiting.size):
            self._flush()
        elif self._flush_planned:
            return
        elif self._is_quiet:
            self._flush(is_alone=is_alone)
        else:
            self._flush_planned = True
            self._gathered = self._turns = 0
            self._loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Commit as soon as a turn of the loop brings nothing more to the batch: in a crowd a call shares its commit
        with whoever is ready too. (Who comes alone, as the last one did, does not wait at all: `_plan_flush`.)"""
        if not self._flush_planned:
            return
        size = self._waiting.size
        self._turns += 1
        if size == self._gathered or size >= BATCH_MAX or self._turns >= GATHER_TURNS_MAX:
            self._flush()
        else:
            self._gathered = size
            self._loop.call_soon(self._gather)

    def _flush(self, *, is_alone: bool = False) -> None:
        self._flush_planned = False
        if self._committing is not None:
            return
        batch = self._next_batch()
        if batch is None:
            self._tell_idle()
            return
        self._is_quiet = batch.size == 1
        self._committing = batch
        self._pace.begin(self._loop.time())
        if is_alone and self._is_quiet:
            self._committer.commit_at_once(batch)
        else:
            self._committer.commit(batch)

    def _next_batch(self) -> Batch | None:
        while self._suspects:
            suspect = self._suspects.popleft()
            if suspect.ends or not suspect.takes[0].future.done():
                return suspect
        batch = self._waiting
        if not (batch.takes or batch.ends):
            return None
        self._waiting = batch.cut(BATCH_MAX)
        batch.takes = [take for take in batch.takes if not take.future.done()]
        return batch if batch.size else self._next_batch()

    def unsure(self) -> None:
        """The store's word that nobody knows what became of the commit under way: its connection broke."""
        if self._committing is not None:
            self._committing.is_unsure = True
            self._set_deadline()  # it had none if no hold is in it: who ended one would wait for as long as it takes

    def _commit(self, batch: Batch) -> Coroutine[Any, Any, None]:
        if self._transaction is None:
            self._transaction = self._open_transaction()
            self._transaction.wait_for_lock(LOCK_WAIT_MS)
        return self._transaction.commit(batch.takes, batch.ends)

    def _committed(self, batch: Batch, failure: Exception | None) -> None:
        self._committing = None
        kind = None if failure is None else kind_of(failure)
        committer = self._committer
        self._pace.end(committer.waited_seconds, committer.was_busy, failed=kind not in (None, Kind.stale))
        if failure is None:
            self._crowd.on_commit(batch.size, self._waiting.size)
            if self._crowd.is_half(self._waiting.size):
                self._flush()  # first, so that the server works while the others are served
            self._succeeded(batch)
        else:
            self._crowd.on_failure()
            self._failed(batch, failure, kind)
        self._set_deadline()
        self.on_room()
        if self.pending:
            self._plan_flush()
        else:
            self._tell_idle()

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _succeeded(self, batch: Batch) -> None:
        for end in batch.ends:
            self._tell_end(end)
        for take in batch.takes:
            outcome = take.outcome
            if isinstance(outcome, Hold):
                self._tell_hold(take.future, outcome)
            elif outcome is not None and not take.future.done():
                take.future.set_exception(outcome)
        if self._on_commit is not None:
            self._on_commit(batch.size, batch.is_read_only)

    def _tell_end(self, end: End) -> None:
        future = end.future
        if end.is_orphan:
            self._orphans.discard(end.hold.id)
        elif end.lost is None:
            if end.kept is None:
                end.hold.is_kept |= end.is_answer
            else:
                self.holds_open -= 1
        if future is not None and not future.done():
            if end.lost is None:
                future.set_result(None)
            else:
                future.set_exception(end.lost)

    def _tell_hold(self, future: asyncio.Future[Hold], hold: Hold) -> None:
        if hold.id:
            self.holds_open += 1
        if not future.done():
            future.set_result(hold)
        elif hold.id:
            # The caller left, or was told 503, while its hold was being written.
            self.finish(End(None, hold, 0, "abandoned", self._loop.time()))

    def _failed(self, batch: Batch, failure: Exception, kind: Kind | None) -> None:
        cause = f"{type(failure).__name__}: {failure}"
        if kind in (Kind.busy, Kind.stale):
            # Another process is at it. Those who wait go on waiting, each till its own deadline.
            batch.is_unsure = False
            if batch.is_suspect:
                self._suspects.appendleft(batch)
            else:
                self._waiting.put_first(batch)
            self._give_up_waiting(self._loop.time())
            return
        if kind is Kind.refused:
            if batch.size > 1:
                self._suspects.extend(batch.apart())
            else:
                self._refuse(batch.takes, cause)
                self._quarantine(batch.ends, cause)
            return
        self._refuse(batch.takes, cause)
        self._waiting.ends[:0] = batch.ends
        self._flush_planned = True
        self._loop.call_later(RETRY_SECONDS, self._flush)

    def _quarantine(self, ends: list[End], cause: str) -> None:
        """An end at which SQL itself takes offence is a defect of ours or a damaged row. It is tried again, alone and
        ever more rarely, so that it holds up nobody."""
        for end in ends:
            self._give_up(end)
            if not end.attempts:
                logger.error("hold %d can't be ended and is tried again later: %s", end.hold.id, cause)
            self._loop.call_later(min(QUARANTINE_SECONDS_MAX, 2.0**end.attempts), self._try_again, end)
            end.attempts += 1

    def _try_again(self, end: End) -> None:
        self._suspects.append(suspect(ends=[end]))
        self._plan_flush()

    def _refuse(self, takes: list[Take], cause: str) -> None:
        for take in takes:
            if not take.future.done():
                take.future.set_exception(CreditsUnavailable(cause=cause))
        if takes and self._on_failure is not None:
            self._on_failure(cause)

    def _set_deadline(self) -> None:
        since = min(batch.since for batch in (self._waiting, *self._suspects))
        running = self._committing
        if running is not None:
            since = min(since, running.since if running.is_unsure else oldest(running.takes))
        self.deadline = since + self._timeout_seconds
