"""An upstream: several targets as one. Which of them takes a call, which gets none for a while, what is tried again.

    choose a target → send → the head is here, or the failure is known: note how it went → perhaps try another target

Calls go to the available targets. If there are none, they go to those whose answers were bad: bad answers may be better
than none. If none can be connected to either, or the health check says that all are down, calls fail at once, but for
one a second that tries.

A call that is tried again is the same call to everybody above: one hold, one charge.
"""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import TYPE_CHECKING

from gateway.errors import NoHealthyTarget, UpstreamError
from gateway.upstreams.member import Circuit, Member, TargetStatus
from gateway.upstreams.pairs import less_busy, pairs_of
from gateway.upstreams.retry_budget import RetryBudget
from gateway.upstreams.transport import IDEMPOTENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.config.tree import UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.observe.metrics import Metrics
    from gateway.observe.shared_counts import Gauge
    from gateway.upstreams.health_check import HealthCheck
    from gateway.upstreams.pairs import Pair
    from gateway.upstreams.transport import UpstreamRequest, UpstreamResponse

logger = logging.getLogger("gateway.upstreams")

LOOK_SECONDS = 1.0
QUICK_LOOK_SECONDS = 0.1
"""While a target is out or grows back."""
HOPELESS_SECONDS = 1.0
"""Where no target is left, each is tried as often."""
CALLS_ENOUGH = 5
"""Of a busy target no more is remembered than so many times the fewest calls that say something: else it would have to
fail for as long as it went well before anybody believes it."""


class Upstream:
    """Implements Transport over the transports of its targets. Watched by Deadlines (it is Expiring)."""

    def __init__(
        self,
        name: str,
        settings: UpstreamSection,
        members: Sequence[Member],
        metrics: Metrics,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
        *,
        chance: Random | None = None,
    ) -> None:
        self.name = name
        self.members = tuple(members)
        self.deadline = 0.0
        self._settings = settings
        self._metrics = metrics
        self._deadlines = deadlines
        self._loop = loop
        self._chance = chance or Random()
        self._counts_5xx = "5xx" in settings.ejection.failures
        self._budget = RetryBudget(settings.retries, loop.time())
        self._checks: list[HealthCheck] = []
        self._due: list[Member] = []
        self._candidates: list[Member] = []
        self._pairs: Iterator[Pair] | None = None
        self._closed = False
        self._fade_at = 0.0
        self._rebuild()
        deadlines.watch(self)

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """See Transport.send. `is_sent` of a request stays true once an attempt has sent it."""
        self._budget.calls += 1
        started_at = self._loop.time()
        member = self._choose()
        tried: list[Member] | None = None
        possibly_executed = False
        while True:
            epoch = member.epoch
            try:
                response = await member.transport.send(request)
            except UpstreamError as error:
                self._note_error(member, epoch, error)
                error.possibly_executed = possibly_executed = possibly_executed or error.possibly_executed
                tried = [*(tried or ()), member]
                other = self._another(request, tried, possibly_executed, started_at)
                if other is None:
                    raise
                member = other
            except BaseException:
                self._lose(member, epoch)
                raise
            else:
                if response.status >= 500 or member.circuit is not Circuit.CLOSED:
                    self._note_status(member, epoch, response.status)
                else:
                    member.calls += 1
                    member.row = 0
                return response

    # Choosing.

    def _choose(self) -> Member:
        if self._due:
            return self._due.pop(0)
        if self._pairs is None:
            raise NoHealthyTarget(cause=f"No target of {self.name} can be reached")
        return less_busy(next(self._pairs))

    def _another(
        self, request: UpstreamRequest, tried: list[Member], possibly_executed: bool, started_at: float
    ) -> Member | None:
        """The target at which the call is tried again, if it may be."""
        settings = self._settings.retries
        if len(tried) >= settings.attempts or self._closed:
            return None
        if possibly_executed and (
            request.method not in IDEMPOTENT or type(request.body) is not bytes or request.upgrade
        ):
            return None
        others = [member for member in self._candidates if member not in tried] or [
            member for member in self.members if not member.is_known_down and member not in tried
        ]
        now = self._loop.time()
        if not others or now - started_at > settings.within_seconds:
            return None
        if not self._budget.take(now):
            self._metrics.counter("upstream_retries_refused", self.name).add()
            return None
        self._metrics.counter("upstream_retries", self.name, tried[-1].url).add()
        return min(others, key=lambda member: (member.transport.load + 1) / member.share)

    def _rebuild(self) -> None:
        """Who may be chosen, after any change."""
        members = self.members
        self._candidates = [member for member in members if member.is_available] or [
            member for member in members if not member.is_known_down
        ]
        self._pairs = pairs_of(self._candidates, self._chance) if self._candidates else None
        self._due = [member for member in self._due if member.circuit is Circuit.HALF_OPEN and not member.is_down]
        if self._pairs is None:
            soon = self._loop.time() + HOPELESS_SECONDS
            for member in members:
                member.until = min(member.until, soon)

    # Judging.

    def _note_error(self, member: Member, epoch: int, error: UpstreamError) -> None:
        """No free connection (NoHealthyTarget) says that there is much to do, not that the target is ill."""
        if isinstance(error, NoHealthyTarget) or error.reason not in self._settings.ejection.failures:
            self._lose(member, epoch)
        else:
            cause = error.cause or error.title
            self._fail(member, epoch, error.reason, cause, unreachable=not error.possibly_executed)

    def _note_status(self, member: Member, epoch: int, status: int) -> None:
        if status >= 500 and self._counts_5xx:
            self._fail(member, epoch, "5xx", f"It answered {status}", unreachable=False)
        elif member.epoch == epoch:
            member.calls += 1
            member.row = 0
            if member.circuit is not Circuit.CLOSED:
                self._bring_back(member)

    def _fail(self, member: Member, epoch: int, reason: str, cause: str, *, unreachable: bool) -> None:
        if member.epoch != epoch:
            return
        member.fail(cause, unreachable=unreachable)
        if member.circuit is Circuit.HALF_OPEN:
            self._eject(member, reason, "it failed again")
        elif member.circuit is Circuit.CLOSED:
            others = [other for other in self.members if other is not member]
            why = member.wants_ejection(self._loop.time(), others)
            if why and (unreachable or self._can_spare(member)):
                self._eject(member, reason, why)

    def _can_spare(self, member: Member) -> bool:
        """May it be ejected for its answers? Somebody must be left, and not too many be out."""
        left = [other for other in self.members if other.is_available and other is not member]
        out = len(self.members) - len(left)
        return bool(left) and out * 100 <= len(self.members) * self._settings.ejection.max_percent

    def _eject(self, member: Member, reason: str, why: str) -> None:
        seconds = member.eject(self._loop.time(), self._chance.random())
        self._metrics.counter("upstream_ejections", self.name, member.url, reason).add()
        logger.warning(
            "%s: %s gets no calls for %.1f s: %s, the last by: %s",
            self.name,
            member.url,
            seconds,
            why,
            member.last_error,
        )
        self._changed()

    def _bring_back(self, member: Member) -> None:
        member.come_back(self._loop.time())
        logger.info("%s: %s is well again and gets calls", self.name, member.url)
        self._changed()

    def _lose(self, member: Member, epoch: int) -> None:
        """The call ended without a word about the target: if it was to try it, the next one is."""
        if member.circuit is Circuit.HALF_OPEN and member.epoch == epoch and member not in self._due:
            self._due.append(member)

    def set_down(self, member: Member, is_down: bool, cause: str) -> None:
        """What the health check found, when it changes."""
        member.is_down = is_down
        if is_down:
            member.last_error = cause
            logger.warning("%s: %s is down: %s", self.name, member.url, cause)
        elif member.circuit is Circuit.CLOSED:
            self._bring_back(member)
            return
        else:
            logger.info("%s: %s is up again, and will be tried", self.name, member.url)
            member.until = 0.0
            self._lose(member, member.epoch)
        self._changed()

    def _changed(self) -> None:
        self._rebuild()
        if self._pairs is None:
            logger.error("%s: no target is left; calls fail at once until one is back", self.name)
        elif not self._candidates[0].is_available:
            logger.warning("%s: every target is ejected; calls go to those that answer at all", self.name)
        self.deadline = 0.0

    def on_deadline(self, now: float) -> None:
        """The shared tick: ejections end, shares grow, counts fade."""
        is_quick = is_growing = False
        for member in self.members:
            if member.circuit is Circuit.OPEN:
                is_quick = True
                if now >= member.until and not member.is_down:
                    member.half_open()
                    self._due.append(member)
            elif member.share != member.weight:
                is_quick = is_growing = True
                member.grow(now)
        if is_growing:
            self._rebuild()
        if now >= self._fade_at:
            self._fade_at = now + LOOK_SECONDS
            kept = self._kept()
            for member in self.members:
                member.fade(now, kept)
        self.deadline = now + (QUICK_LOOK_SECONDS if is_quick else LOOK_SECONDS)

    def _kept(self) -> float:
        """What is left of all counts after LOOK_SECONDS. The same for each target: they are compared."""
        settings = self._settings.ejection
        calls_max = CALLS_ENOUGH * settings.failure_min_calls
        busiest = max(member.calls for member in self.members)
        return min(1 - LOOK_SECONDS / settings.window_seconds, calls_max / max(busiest, calls_max))

    # Watching and closing.

    def add_checks(self, checks: Sequence[HealthCheck]) -> None:
        """Health checks that are this upstream's to close."""
        self._checks += checks

    def status(self) -> list[TargetStatus]:
        """Every target as it is now, for ops."""
        now = self._loop.time()
        return [member.status(now) for member in self.members]

    def gauges(self) -> Iterator[Gauge]:
        """For Metrics.collect_gauges."""
        open_count, idle_count, waiting_count = self.count_connections()
        yield "upstream_connections_open", (self.name,), open_count
        yield "upstream_connections_idle", (self.name,), idle_count
        yield "upstream_connections_waiting", (self.name,), waiting_count
        for member in self.members:
            yield "upstream_up", (self.name, member.url), int(member.is_available)
            yield "circuit_state", (self.name, member.url), member.circuit

    def count_connections(self) -> tuple[int, int, int]:
        """See Transport.count_connections."""
        counts = [member.transport.count_connections() for member in self.members]
        return sum(c[0] for c in counts), sum(c[1] for c in counts), sum(c[2] for c in counts)

    async def aclose(self) -> None:
        """See Transport.aclose."""
        self._closed = True
        self._deadlines.unwatch(self)
        for check in self._checks:
            await check.aclose()
        for member in self.members:
            await member.transport.aclose()
