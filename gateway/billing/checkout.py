"""A buyer chooses a pack and gets a page to pay on.

The order is written first; then Stripe is asked, with the order's id as idempotency key. So a lost answer, a crash or a
second click leads to the same order and the same page.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from sqlalchemy import Connection, select

from gateway.billing import accounts, orders
from gateway.billing.orders import Order, State
from gateway.billing.packs import Catalogue, Sale
from gateway.billing.payments import Terms
from gateway.billing.stripe_api import StripeApi, StripeRefused
from gateway.credits.ledger import now_ms
from gateway.credits.provider import CreditsProvider
from gateway.database.engine import Database
from gateway.database.tables import keys
from gateway.errors import BillingUnavailable, Conflict, CreditsUnavailable, Invalid

REPEAT_MS = 20 * 3_600_000
"""Stripe forgets idempotency keys after a day; an order without a checkout is not tried again for that long."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """An order that can be paid for, and the page to pay on."""

    order_id: str
    checkout_id: str
    url: str


class Checkouts:
    """Opens checkouts. `reuse_customers`: each user is one customer at Stripe."""

    def __init__(
        self,
        database: Database,
        provider: CreditsProvider,
        stripe: StripeApi,
        catalogue: Catalogue,
        terms: Terms,
        *,
        livemode: bool,
        reuse_customers: bool,
    ) -> None:
        self._database = database
        self._provider = provider
        self._stripe = stripe
        self._catalogue = catalogue
        self._terms = terms
        self._livemode = livemode
        self._reuse_customers = reuse_customers

    async def open(self, *, user_id: str, key_id: str, pack: str, quantity: int, attempt: str | None) -> Checkout:
        """See Billing.checkout."""
        sale = self._catalogue.sale(pack, quantity)
        await self._check_key(user_id, key_id)
        order, is_new = await self._database.transaction(
            lambda db: _create(db, sale, user_id, key_id, livemode=self._livemode, attempt=attempt)
        )
        if not is_new:
            _check_same(order, sale, key_id)
            if order.checkout_id is not None and order.checkout_url is not None:
                return Checkout(order.id, order.checkout_id, order.checkout_url)
        return await self._ask(order, sale)

    async def _ask(self, order: Order, sale: Sale) -> Checkout:
        try:
            customer_id = await self._customer(order) if self._reuse_customers else None
            checkout = await self._stripe.create_checkout(order, sale.pack.name, self._terms, customer_id)
        except (StripeRefused, Conflict) as error:
            is_customer = isinstance(error, StripeRefused) and error.param == "customer"
            await self._database.transaction(
                partial(_fail, order_id=order.id, cause=error.cause, is_customer=is_customer)
            )
            raise
        if checkout.url is None:
            raise BillingUnavailable(cause=f"Stripe's checkout {checkout.id} has no page")
        try:
            await self._database.transaction(
                partial(_attach, order_id=order.id, checkout_id=checkout.id, url=checkout.url)
            )
        except CreditsUnavailable as error:
            # The same attempt again finds the order, and Stripe gives the same checkout.
            raise BillingUnavailable("The order could not be written down. Try again.", cause=error.cause) from error
        return Checkout(order.id, checkout.id, checkout.url)

    async def _customer(self, order: Order) -> str:
        livemode = order.livemode
        known = await self._database.read(lambda db: accounts.find_customer(db, order.user_id, livemode=livemode))
        if known is not None:
            return known
        made = await self._stripe.create_customer(order.user_id, f"customer:{order.id}")
        return await self._database.transaction(
            lambda db: accounts.keep_customer(db, order.user_id, made, livemode=livemode)
        )

    async def _check_key(self, user_id: str, key_id: str) -> None:
        """Nobody is to pay for credits that can't be given. Raises Invalid, Conflict, CreditsUnavailable."""
        key = await self._provider.get(key_id)
        if key is None or key.user_id != user_id:
            _refuse_key("unknown")
        if key.revoked_at is not None:
            _refuse_key("it is revoked")
        if key.expires_at is not None and key.expires_at <= now_ms():
            _refuse_key("it has expired")
        if key.available is None:
            _refuse_key("it is unlimited: it has no credits to add to")
        if not key.enabled:
            raise Conflict("The key is disabled, so nothing can be bought for it now.")


def _refuse_key(why: str) -> NoReturn:
    raise Invalid("Nothing can be bought for this key.", errors={"key_id": why})


def _create(
    connection: Connection, sale: Sale, user_id: str, key_id: str, *, livemode: bool, attempt: str | None
) -> tuple[Order, bool]:
    if connection.execute(select(keys.c.id).where(keys.c.key_id == key_id)).first() is None:
        _refuse_key("it was made elsewhere and has never been used here: make one call with it first")
    if orders.has_disputed(connection, user_id, livemode=livemode):
        raise Conflict("A payment of this user is disputed at the bank. Until that is decided, nothing can be bought.")
    return orders.create(connection, sale, user_id=user_id, key_id=key_id, livemode=livemode, attempt=attempt)


def _check_same(order: Order, sale: Sale, key_id: str) -> None:
    """An attempt that is made again must be for the same."""
    if (order.key_id, order.pack, order.quantity) != (key_id, sale.pack.id, sale.quantity):
        raise Conflict("This Idempotency-Key was used for another purchase.")
    if order.state not in {State.created, State.open}:
        raise Conflict(f"This Idempotency-Key's order is {order.state.value}; use a new one to buy again.")
    if order.checkout_id is None and order.created_at < now_ms() - REPEAT_MS:
        raise Conflict("This Idempotency-Key is too old; use a new one.")


def _attach(connection: Connection, order_id: str, checkout_id: str, url: str) -> None:
    order = orders.lock(connection, order_id)
    if order is not None and order.checkout_id is None:  # else a webhook was quicker
        orders.attach(connection, order, checkout_id, url)


def _fail(connection: Connection, order_id: str, cause: str, *, is_customer: bool) -> None:
    """`is_customer`: because of the customer, who was deleted at Stripe. The next order makes a new one."""
    order = orders.lock(connection, order_id)
    assert order is not None
    if order.state is State.created:
        orders.move(connection, order, State.failed, cause=cause)
    if is_customer:
        accounts.forget_customer(connection, order.user_id, livemode=order.livemode)
