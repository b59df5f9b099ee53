"""Billing as the rest of the gateway sees it, and where its parts are put together.

checkout.py   a pack becomes an order and a page to pay on
webhook.py    what Stripe says becomes a row of the inbox
worker.py     the inbox becomes looks at Stripe
fulfil.py     a paid checkout becomes credits, once
refunds.py    money that goes back takes its credits along
reconcile.py  what no webhook told is found
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cachetools import TTLCache
from sqlalchemy import Connection

from gateway.billing import inbox, orders, outbox
from gateway.billing.checkout import Checkout, Checkouts
from gateway.billing.crediting import Crediting
from gateway.billing.freezes import Freezes
from gateway.billing.fulfil import Fulfilment
from gateway.billing.loop import Loop
from gateway.billing.orders import Order, State
from gateway.billing.outbox import Outbox
from gateway.billing.packs import Catalogue, Pack
from gateway.billing.payments import Terms
from gateway.billing.reconcile import Reconciler, Report, Schedule
from gateway.billing.refunds import Refunds
from gateway.billing.retention import Retention
from gateway.billing.stripe_api import StripeApi
from gateway.billing.webhook import BODY_MAX_BYTES, Webhook
from gateway.billing.worker import FollowUp, InboxWorker
from gateway.credits.provider import CreditsProvider
from gateway.database.engine import Database
from gateway.errors import GatewayError

logger = logging.getLogger("gateway.billing")

LOOK_SECONDS = 3.0
"""A page that polls its order has Stripe asked so often, at most."""
LOOK_WAIT_SECONDS = 2.0
"""How long such a poll waits for Stripe before it answers with what is known."""
RECONCILE_LOOK_SECONDS = 30.0
COUNT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class BillingSettings:
    """What config.yaml says of billing. `secret_key` and `webhook_secrets` are never shown; `tells_app`: notifications
    are written. Times in seconds."""

    secret_key: str = field(repr=False)
    webhook_secrets: Sequence[str] = field(repr=False)
    packs: Sequence[Pack]
    terms: Terms
    base_url: str = "https://api.stripe.com"
    quantity_max: int = 100
    reuse_customers: bool = False
    timeout_seconds: float = 10
    retries: int = 2
    poll_seconds: float = 1
    tells_app: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    keep_days: int = 90

    @property
    def livemode(self) -> bool:
        """Whether the key is one for real money: sk_live_…, rk_live_…"""
        return self.secret_key[2:].startswith("_live_")


class Billing:
    """Sells packs through Stripe. Use `open` and `aclose` around it, on one event loop; without `open` nothing happens
    by itself, but everything can be asked for."""

    body_max_bytes = BODY_MAX_BYTES
    """Of a webhook."""

    def __init__(self, database: Database, provider: CreditsProvider, settings: BillingSettings) -> None:
        self.counts: Mapping[str, int] = {}
        """By metric: what waits, and what a person should look at. Counted every few seconds once it is open."""
        owner, livemode = secrets.token_hex(8), settings.livemode
        self._database = database
        self._stripe = StripeApi(
            settings.secret_key,
            base_url=settings.base_url,
            timeout_seconds=settings.timeout_seconds,
            retries=settings.retries,
        )
        stripe = self._stripe
        catalogue = Catalogue(settings.packs, settings.quantity_max)
        self.packs: Sequence[Pack] = catalogue.packs
        self._checkouts = Checkouts(
            database,
            provider,
            stripe,
            catalogue,
            settings.terms,
            livemode=livemode,
            reuse_customers=settings.reuse_customers,
        )
        self._webhook = Webhook(database, settings.webhook_secrets, livemode=livemode)
        box = Outbox(is_on=settings.tells_app)
        crediting = Crediting(provider, box)
        self._fulfilment = Fulfilment(database, crediting, stripe, livemode=livemode)
        freezes = Freezes(database, provider, owner)
        refunds = Refunds(database, provider, stripe, self._fulfilment, freezes, box)
        follow_up = FollowUp(database, provider, crediting, refunds, freezes)
        self._reconciler = Reconciler(
            *(database, provider, stripe, self._fulfilment, refunds, follow_up, owner, settings.schedule),
            livemode=livemode,
        )
        worker = InboxWorker(database, self._fulfilment, refunds, owner)
        self._inbox = Loop("the inbox", worker.work, settings.poll_seconds)
        self._follow_up = Loop("what follows", follow_up.work, settings.poll_seconds)
        look_seconds = min(RECONCILE_LOOK_SECONDS, settings.schedule.every_seconds)
        self._reconciling = Loop("reconciliation", self._reconciler.work, look_seconds)
        self._counting = Loop("counting", self._count, COUNT_SECONDS)
        self._retention = Retention(database, settings.keep_days).loop()
        self._looked: TTLCache[str, bool] = TTLCache(maxsize=10_000, ttl=LOOK_SECONDS)
        self._looks: set[asyncio.Task[Order | None]] = set()

    async def open(self) -> None:
        for loop in (self._inbox, self._follow_up, self._reconciling, self._counting, self._retention):
            loop.open()

    async def aclose(self) -> None:
        for loop in (self._retention, self._counting, self._reconciling, self._follow_up, self._inbox):
            await loop.aclose()
        if self._looks:
            await asyncio.wait(self._looks)
        await self._stripe.aclose()

    async def checkout(self, *, user_id: str, key_id: str, pack: str, quantity: int, attempt: str | None) -> Checkout:
        """Open an order and the page to pay for it. The same `attempt` (a hash of the caller's Idempotency-Key) of the
        same user gives the same order.

        Raises Invalid (pack, quantity, key_id), Conflict, BillingUnavailable, CreditsUnavailable.
        """
        return await self._checkouts.open(user_id=user_id, key_id=key_id, pack=pack, quantity=quantity, attempt=attempt)

    async def order(self, order_id: str) -> Order | None:
        """The order. One that is not paid yet is brought up to date first, as far as Stripe answers soon: the page on
        which a buyer lands must not have to wait for a webhook."""
        order = await self._find(order_id)
        if order is None or order.checkout_id is None or order.state not in {State.open, State.awaiting_payment}:
            return order
        if order_id in self._looked:
            return order
        self._looked[order_id] = True
        look = asyncio.create_task(self._look(order.checkout_id))
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)
        await asyncio.wait([look], timeout=LOOK_WAIT_SECONDS)
        return await self._find(order_id)

    async def receive(self, body: bytes, signature: str) -> None:
        """Take an event of Stripe's: stored durably on return, worked on afterwards.

        Raises BadRequest (forged, or none of ours), BodyTooLarge, BillingUnavailable (Stripe sends it again).
        """
        if await self._webhook.receive(body, signature):
            self._inbox.kick()

    async def reconcile(self, days: int) -> Report:
        """Find and mend what no webhook told in the last days, and compare the ledger with the keeper of keys.

        Raises BillingUnavailable, CreditsUnavailable.
        """
        return await self._reconciler.reconcile(days, with_drift=True)

    async def _find(self, order_id: str) -> Order | None:
        return await self._database.read(lambda db: orders.find(db, order_id))

    async def _count(self) -> None:
        self.counts = await self._database.read(_read_counts)

    async def _look(self, checkout_id: str) -> Order | None:
        try:
            return await self._fulfilment.fulfil(checkout_id)
        except GatewayError as error:
            logger.warning("a buyer waits, and Stripe can't be asked: %s", error.cause or error)
            return None


def _read_counts(connection: Connection) -> Mapping[str, int]:
    events = inbox.count(connection)
    return {
        "orders_for_a_person": orders.count_for_a_person(connection),
        "stripe_events_waiting": events.get("new", 0),
        "stripe_events_dead": events.get("dead", 0),
        "notifications_waiting": outbox.count_waiting(connection),
    }
