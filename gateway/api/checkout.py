"""Buying credits over HTTP: an order with a page to pay on, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from gateway.api.operation import EVERYBODY, AnyOperation, Asked, Model, Operation, Request
from gateway.api.ownership import KeyId, choose_key
from gateway.api.ports import Billing, Order
from gateway.api.pricing import CHECKOUT_PATH
from gateway.credits.provider import CreditsProvider
from gateway.errors import BillingNotConfigured, BillingUnavailable, Conflict, Invalid, NotFound

QUANTITY_MAX = 1_000_000
"""What no config can exceed; `billing` has the smaller limit that counts."""


class NewCheckout(Asked):
    """What to buy. Credits and prices are the config's, never the buyer's to say."""

    pack: Annotated[str, Field(min_length=1, max_length=200, examples=["starter"])]
    """The pack's `id`, from `GET /pricing`."""
    quantity: Annotated[int, Field(ge=1, le=QUANTITY_MAX)] = 1
    """How many of it."""
    key_id: KeyId | None = None
    """The key that gets the credits. Needed with the admin token, and by users with several keys."""


class OpenCheckout(Model):
    """An order that can be paid for."""

    order_id: str
    """The order, for `GET /orders/{order_id}`."""
    checkout_id: str
    """The payment provider's name for the checkout."""
    url: str
    """The page on which the buyer pays."""


class OrderState(Model):
    """One sale, and how far it is. Times are Unix milliseconds."""

    order_id: str
    """The order."""
    user_id: str
    """The buyer's id in the app."""
    key_id: str
    """The key that gets the credits."""
    pack: str
    """The pack's `id`."""
    quantity: int
    """How many of it."""
    credits: int
    """Credits bought, all together."""
    currency: str
    """ISO 4217 code in lower case."""
    amount_cents: int
    """The price of all, in the currency's smallest unit."""
    state: str
    """created, open, awaiting_payment, paid, fulfilled, failed, expired or review. The credits are there with
    `fulfilled`."""
    clawed: int
    """Credits taken back for refunds and disputes."""
    checkout_id: str | None
    """The payment provider's name for the checkout; null before there is one."""
    created_at: int
    """When it was made."""
    updated_at: int
    """When it last changed."""


class Checkouts:
    """The handlers. `billing` None: nothing is sold."""

    def __init__(self, provider: CreditsProvider, billing: Billing | None) -> None:
        self._provider = provider
        self._billing = billing

    async def create(self, request: Request[NewCheckout, None]) -> OpenCheckout:
        billing, body = self._selling(), request.body
        key = await choose_key(self._provider, request.identity, body.key_id)
        if key.revoked_at is not None:
            raise Invalid("The key is revoked.", errors={"key_id": "is revoked"})
        if key.available is None:
            raise Invalid("The key is unlimited.", errors={"key_id": "an unlimited key has no credits to add to"})
        checkout = await billing.checkout(
            user_id=key.user_id,
            key_id=key.key_id,
            pack=body.pack,
            quantity=body.quantity,
            attempt=request.attempt.reference if request.attempt is not None else None,
        )
        return OpenCheckout(order_id=checkout.order_id, checkout_id=checkout.checkout_id, url=checkout.url)

    async def order(self, request: Request[None, None]) -> OrderState:
        order = await self._selling().order(request.path["order_id"])
        if order is None or not request.identity.owns(order.key_id, order.user_id):
            raise NotFound("There is no such order.")
        return _show(order)

    def _selling(self) -> Billing:
        if self._billing is None:
            raise BillingNotConfigured
        return self._billing

    def operations(self) -> Sequence[AnyOperation]:
        return [
            Operation(
                "createCheckout", "POST", CHECKOUT_PATH, "Buy credits",
                "Opens an order and gives the page on which it is paid. The credits come with the payment provider's"
                " word that it was paid, not with the buyer's return.",
                self.create, EVERYBODY, OpenCheckout, 201, body=NewCheckout, changes=True, takes_idempotency_key=True,
                problems=(NotFound, Conflict, BillingNotConfigured, BillingUnavailable),
            ),
            Operation(
                "getOrder", "GET", "/orders/{order_id}", "What became of an order",
                "What a success page polls until `state` is `fulfilled`.",
                self.order, EVERYBODY, OrderState, problems=(NotFound, BillingNotConfigured, BillingUnavailable),
                path_fields={"order_id": "The order."},
            ),
        ]  # fmt: skip


def _show(order: Order) -> OrderState:
    return OrderState(
        order_id=order.id,
        user_id=order.user_id,
        key_id=order.key_id,
        pack=order.pack,
        quantity=order.quantity,
        credits=order.credits,
        currency=order.currency,
        amount_cents=order.amount_cents,
        state=order.state,
        clawed=order.clawed,
        checkout_id=order.checkout_id,
        created_at=order.created_at,
        updated_at=order.updated_at,
    )
