"""Finds what no webhook told: Stripe's checkouts, refunds and disputes are listed and given to the same functions.

So losing every webhook loses nothing. It changes nothing where nothing was lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection

from gateway.billing import leases, orders
from gateway.billing.fulfil import Fulfilment, Stray
from gateway.billing.orders import Order, State
from gateway.billing.payments import StripeCheckout
from gateway.billing.refunds import Refunds
from gateway.billing.stripe_api import StripeApi
from gateway.billing.worker import FollowUp
from gateway.credits.ledger import now_ms
from gateway.credits.provider import CreditsProvider, Drift
from gateway.database.engine import Database
from gateway.errors import GatewayError

logger = logging.getLogger("gateway.billing")

DAY_SECONDS = 86_400
LEASE_MS = 900_000
ABANDONED_AFTER_DAYS = 2
"""A checkout lives for a day. An order that never heard of one for longer has none that could be paid."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often Stripe is listed, and how far back; and the same for the long look. Periods in seconds."""

    every_seconds: float = 600
    days: int = 3
    long_every_seconds: float = DAY_SECONDS
    long_days: int = 30


@dataclass(frozen=True, slots=True)
class Change:
    """An order that was not as Stripe says, and what became of it."""

    order_id: str
    state_before: str
    state_after: str
    clawed_before: int
    clawed_after: int


@dataclass(slots=True)
class Report:
    """What a reconciliation has looked at, found and done. `strays`: paid, said to be ours, and not in our books.
    `failures`: what could not be brought up to date, and why. `drift` None: not asked for."""

    days: int
    checkouts: int = 0
    payments: int = 0
    changes: list[Change] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    drift: Sequence[Drift] | None = None


class Reconciler:
    """`owner` names this process among those that share the database."""

    def __init__(
        self,
        database: Database,
        provider: CreditsProvider,
        stripe: StripeApi,
        fulfilment: Fulfilment,
        refunds: Refunds,
        follow_up: FollowUp,
        owner: str,
        schedule: Schedule,
        *,
        livemode: bool,
    ) -> None:
        self._database = database
        self._provider = provider
        self._stripe = stripe
        self._fulfilment = fulfilment
        self._refunds = refunds
        self._follow_up = follow_up
        self._owner = owner
        self._schedule = schedule
        self._livemode = livemode

    async def work(self) -> None:
        """What is due of the schedule, unless another process does it."""
        schedule = self._schedule
        if not await self._due("reconcile:long", schedule.long_every_seconds, schedule.long_days):
            await self._due("reconcile", schedule.every_seconds, schedule.days)

    async def _due(self, name: str, every_seconds: float, days: int) -> bool:
        take = partial(
            leases.take, name=name, owner=self._owner, for_ms=LEASE_MS, every_ms=max(1, int(every_seconds * 1000))
        )
        if not await self._database.transaction(take):
            return False
        is_done = False
        try:
            report = await self.reconcile(days)
            is_done = not report.failures
        finally:
            give_back = partial(leases.give_back, name=name, owner=self._owner, is_done=is_done)
            await self._database.transaction(give_back)
        return is_done

    async def reconcile(self, days: int, *, with_drift: bool = False) -> Report:
        """Look at everything of the last days. Raises BillingUnavailable where Stripe can't be listed."""
        report = Report(days)
        since = int(time.time()) - days * DAY_SECONDS
        async for page in self._stripe.list_checkouts(since):
            await self._settle(page, report)
        for payment_id in await self._payments(since):
            await self._look(payment_id, report)
        if days > ABANDONED_AFTER_DAYS and not report.failures:
            await self._expire(report)
        await self._follow_up.work()
        if with_drift:
            report.drift = await self._provider.list_drift()
        for change in report.changes:
            logger.warning("no webhook told of order %s: %s", change.order_id, _shown(change))
        return report

    async def _settle(self, page: list[StripeCheckout], report: Report) -> None:
        known = await self._database.read(lambda db: orders.find_by_checkouts(db, [checkout.id for checkout in page]))
        for checkout in page:
            report.checkouts += 1
            before = known.get(checkout.id)
            if not _may_change(before, checkout):
                continue
            with _Failures(checkout.id, report):
                after = await self._fulfilment.settle(checkout)
                _note(report, before, after)

    async def _payments(self, since: int) -> list[str]:
        """The payments whose money may have moved: what Stripe lists, and ours that a bank has not decided over."""
        disputed = await self._database.read(partial(orders.read_disputed, livemode=self._livemode))
        found = {order.payment_id for order in disputed if order.payment_id is not None}
        for listed in (self._stripe.list_refunded(since), self._stripe.list_disputed(since)):
            found |= await _gathered(listed)
        return sorted(found)

    async def _look(self, payment_id: str, report: Report) -> None:
        report.payments += 1
        with _Failures(payment_id, report):
            before = await self._database.read(lambda db: orders.find_by_payment(db, payment_id))
            _note(report, before, await self._refunds.look(payment_id))

    async def _expire(self, report: Report) -> None:
        """Orders that never heard of their checkout, now that Stripe's list does not know one either."""
        before_ms = now_ms() - ABANDONED_AFTER_DAYS * DAY_SECONDS * 1000
        for order in await self._database.transaction(lambda db: _expire(db, before_ms)):
            report.changes.append(Change(order.id, order.state, State.expired, 0, 0))


class _Failures:
    """Around one object: what is wrong with it is reported, and the others go on."""

    def __init__(self, name: str, report: Report) -> None:
        self._name = name
        self._report = report

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Stray):
            logger.error("a stray: %s", error.cause)
            self._report.strays.append(error.cause)
            return True
        if isinstance(error, GatewayError):
            self._report.failures.append(f"{self._name}: {error.cause or error}")
            logger.warning("%s can't be reconciled now: %s", self._name, error.cause or error)
            return True
        return False


def _may_change(order: Order | None, checkout: StripeCheckout) -> bool:
    """Whether what Stripe lists says other than the order, or may."""
    if order is None:
        return (checkout.order_id or "").startswith(orders.PREFIX)
    if not order.is_open:
        return False
    if checkout.status in {"open", "expired"}:
        return order.state.value != checkout.status
    return True


def _note(report: Report, before: Order | None, after: Order | None) -> None:
    if after is None:
        return
    state, clawed = (before.state, before.clawed) if before is not None else (State.created, 0)
    if (state, clawed) != (after.state, after.clawed):
        report.changes.append(Change(after.id, state, after.state, clawed, after.clawed))


def _shown(change: Change) -> str:
    shown = f"{change.state_before} → {change.state_after}"
    if change.clawed_before != change.clawed_after:
        shown += f", clawed {change.clawed_before} → {change.clawed_after}"
    return shown


def _expire(connection: Connection, before_ms: int) -> Sequence[Order]:
    abandoned = orders.read_abandoned(connection, before_ms)
    for order in abandoned:
        orders.move(connection, order, State.expired, cause="no checkout was ever made")
    return abandoned


async def _gathered(found: AsyncIterator[str]) -> set[str]:
    return {name async for name in found}
