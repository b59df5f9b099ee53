"""Stripe's API as we use it: the only module that knows the SDK.

One client per event loop, asynchronous, with explicit timeouts and retries. Every parameter is typed by the SDK's own
dictionaries, so mypy checks them against the API version that the SDK is pinned to. What Stripe or the SDK raises
becomes BillingUnavailable, StripeRefused or Conflict here, once; what Stripe answers becomes payments.py.

Each request runs in a task of its own, which a caller who leaves does not cancel: httpx's pool does not survive that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import stripe
from stripe import HTTPXClient, ListObject, StripeClient, WebhookSignature
from stripe.checkout import Session
from stripe.params import (
    CustomerCreateParams,
    DisputeListParams,
    PaymentIntentRetrieveParams,
    RefundListParams,
)
from stripe.params.checkout import SessionCreateParams, SessionListParams, SessionRetrieveParams

from gateway.billing.orders import Order, metadata_of
from gateway.billing.payments import Payment, StripeCheckout, Terms
from gateway.errors import BillingUnavailable, Conflict, GatewayError

logger = logging.getLogger("gateway.billing")

Result = TypeVar("Result")

API_VERSION = stripe.api_version
"""Which an endpoint for webhooks should be registered with."""
PAGE = 100
TOLERANCE_SECONDS = 300
NOT_OWED = frozenset({"won", "prevented", "warning_needs_response", "warning_under_review", "warning_closed"})
"""Disputes for which no money has gone, or for which it has come back. Any other word means that it has gone."""
NOT_REFUNDED = frozenset({"failed", "canceled"})
"""Refunds whose money stays. A pending one counts: it is promised."""


class StripeRefused(BillingUnavailable):
    """Stripe understood the request and does not do it: sent again as it is, it would be refused again. `param` is what
    it does not like."""

    def __init__(self, *, cause: str, param: str = "") -> None:
        super().__init__(cause=cause)
        self.param = param


class StripeApi:
    """Stripe's API. Use it on one event loop, and `aclose` it there. `timeout_seconds` is for each try."""

    def __init__(self, secret_key: str, *, base_url: str, timeout_seconds: float, retries: int) -> None:
        stripe.enable_telemetry = False
        self._http = HTTPXClient(timeout=timeout_seconds)
        self._client = StripeClient(
            secret_key,
            http_client=self._http,
            max_network_retries=retries,
            base_addresses={"api": base_url.rstrip("/")},
        )
        self._running: set[asyncio.Task[Any]] = set()

    async def aclose(self) -> None:
        """Wait for what is under way, then close the connections."""
        if self._running:
            await asyncio.wait(self._running)
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def create_checkout(
        self, order: Order, pack_name: str, terms: Terms, customer_id: str | None
    ) -> StripeCheckout:
        """Make the checkout of this order. The same order again gives the same checkout.

        Raises Conflict where it was made with other parameters, StripeRefused, BillingUnavailable.
        """
        asked = checkout_params(order, pack_name, terms, customer_id)
        sessions = self._client.v1.checkout.sessions
        return _checkout(await self._call(sessions.create_async(asked, {"idempotency_key": order.id})))

    async def create_customer(self, user_id: str, idempotency_key: str) -> str:
        """A customer of this user; its id."""
        asked: CustomerCreateParams = {"metadata": {"user_id": user_id}}
        made = await self._call(self._client.v1.customers.create_async(asked, {"idempotency_key": idempotency_key}))
        return str(made.id)

    async def find_checkout(self, checkout_id: str) -> StripeCheckout | None:
        """The checkout as it stands now."""
        asked: SessionRetrieveParams = {"expand": ["payment_intent"]}
        try:
            found = await self._call(self._client.v1.checkout.sessions.retrieve_async(checkout_id, asked))
        except StripeMissing:
            return None
        return _checkout(found)

    async def find_checkout_of(self, payment_id: str) -> StripeCheckout | None:
        """The checkout by which this payment was made, if it was made by one."""
        asked: SessionListParams = {"payment_intent": payment_id, "limit": 1, "expand": ["data.payment_intent"]}
        page = await self._call(self._client.v1.checkout.sessions.list_async(asked))
        return _checkout(page.data[0]) if page.data else None

    async def find_payment(self, payment_id: str) -> Payment | None:
        """The payment with all its refunds and disputes, as they stand now."""
        asked: PaymentIntentRetrieveParams = {"expand": ["latest_charge"]}
        try:
            intent = await self._call(self._client.v1.payment_intents.retrieve_async(payment_id, asked))
        except StripeMissing:
            return None
        with _Reading():
            charge = intent.latest_charge
            amount = 0 if charge is None else charge.amount  # type: ignore[union-attr]  # it was asked for in full
            refunded = [
                refund.amount
                async for refund in self._refunds({"payment_intent": payment_id, "limit": PAGE})
                if refund.status not in NOT_REFUNDED
            ]
            disputed = [
                (dispute.amount, dispute.status)
                async for dispute in self._disputes({"payment_intent": payment_id, "limit": PAGE})
                if dispute.status not in NOT_OWED
            ]
        return Payment(
            payment_id,
            amount,
            min(sum(refunded) + sum(amount for amount, _ in disputed), amount),
            is_disputed=any(status != "lost" for _, status in disputed),
            is_lost=any(status == "lost" for _, status in disputed),
        )

    async def list_checkouts(self, since: int) -> AsyncIterator[list[StripeCheckout]]:
        """Pages of the checkouts made since then (Unix seconds), newest first."""
        asked: SessionListParams = {"created": {"gte": since}, "limit": PAGE, "expand": ["data.payment_intent"]}
        while True:
            page = await self._call(self._client.v1.checkout.sessions.list_async(asked))
            yield [_checkout(session) for session in page.data]
            if not _has_more(page):
                return
            asked["starting_after"] = page.data[-1].id

    async def list_refunded(self, since: int) -> AsyncIterator[str]:
        """The payments of which something was refunded since then (Unix seconds)."""
        async for refund in self._refunds({"created": {"gte": since}, "limit": PAGE}):
            payment_id = _id_of(refund.payment_intent)
            if payment_id is not None:
                yield payment_id

    async def list_disputed(self, since: int) -> AsyncIterator[str]:
        """The payments that were disputed since then (Unix seconds)."""
        async for dispute in self._disputes({"created": {"gte": since}, "limit": PAGE}):
            payment_id = _id_of(dispute.payment_intent)
            if payment_id is not None:
                yield payment_id

    async def _refunds(self, asked: RefundListParams) -> AsyncIterator[stripe.Refund]:
        while True:
            page = await self._call(self._client.v1.refunds.list_async(asked))
            for refund in page.data:
                yield refund
            if not _has_more(page):
                return
            asked["starting_after"] = page.data[-1].id

    async def _disputes(self, asked: DisputeListParams) -> AsyncIterator[stripe.Dispute]:
        while True:
            page = await self._call(self._client.v1.disputes.list_async(asked))
            for dispute in page.data:
                yield dispute
            if not _has_more(page):
                return
            asked["starting_after"] = page.data[-1].id

    async def _call(self, request: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.ensure_future(_translated(request))
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may have left; nobody else is to hear of it


class StripeMissing(StripeRefused):
    """Stripe has no such object."""


def is_signed(body: bytes, signature: str, secret: str) -> bool:
    """Whether somebody who knows the secret signed exactly these bytes, at most five minutes ago."""
    try:
        return bool(WebhookSignature.verify_header(body, signature, secret, tolerance=TOLERANCE_SECONDS))
    except (stripe.SignatureVerificationError, ValueError, TypeError):
        # Neither a body that is no UTF-8 (ValueError) nor a signature outside ASCII (TypeError) is signed.
        return False


def checkout_params(order: Order, pack_name: str, terms: Terms, customer_id: str | None) -> SessionCreateParams:
    """What is asked of Stripe for an order: a function of the order and the config, so that a repeat asks the same.

    Metadata of a session don't reach its payment, so both get them.
    """
    metadata = metadata_of(order)
    asked: SessionCreateParams = {
        "mode": "payment",
        "client_reference_id": order.id,
        "line_items": [
            {
                "quantity": order.quantity,
                "price_data": {
                    "currency": order.currency,
                    "unit_amount": order.amount_cents // order.quantity,
                    "product_data": {"name": pack_name},
                },
            }
        ],
        "metadata": metadata,
        "payment_intent_data": {"metadata": metadata},
        "success_url": _with_query(terms.success_url, f"order_id={order.id}&session_id={{CHECKOUT_SESSION_ID}}"),
        "cancel_url": _with_query(terms.cancel_url, f"order_id={order.id}"),
    }
    if terms.promotion_codes:
        asked["allow_promotion_codes"] = True
    if terms.invoices:
        asked["invoice_creation"] = {"enabled": True}
    if customer_id is not None:
        asked["customer"] = customer_id
    if terms.automatic_tax:
        # Tax comes on top: what was ordered stays the subtotal, which is what fulfilment compares.
        asked["automatic_tax"] = {"enabled": True}
        asked["line_items"][0]["price_data"]["tax_behavior"] = "exclusive"
        if customer_id is not None:
            asked["customer_update"] = {"address": "auto", "name": "auto"}
    return asked


def _with_query(url: str, query: str) -> str:
    page, mark, fragment = url.partition("#")
    return page + ("&" if "?" in page else "?") + query + mark + fragment


async def _translated(request: Coroutine[Any, Any, Result]) -> Result:
    """The one place where Stripe's errors become ours."""
    try:
        return await request
    except stripe.StripeError as error:
        raise _translate(error) from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise BillingUnavailable(cause=f"Stripe's answer makes no sense: {error!r}") from error


def _translate(error: stripe.StripeError) -> GatewayError:
    cause = (
        f"Stripe: {type(error).__name__} {error.http_status or ''} {error.user_message or error} ({error.request_id})"
    )
    if isinstance(error, stripe.IdempotencyError) and error.http_status != 409:  # 409: the first one still runs
        return Conflict("This was asked before with other parameters.", cause=cause)
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        logger.error("Stripe does not accept our key: %s", cause)
        return BillingUnavailable(cause=cause)
    if isinstance(error, stripe.InvalidRequestError):
        kind = StripeMissing if error.http_status == 404 else StripeRefused
        return kind(cause=cause, param=error.param or "")
    return BillingUnavailable(cause=cause)


class _Reading:
    """Around whatever reads Stripe's objects: a member that is missing makes no sense."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, AttributeError | KeyError | TypeError | ValueError):
            raise BillingUnavailable(cause=f"Stripe's answer makes no sense: {error!r}") from error


def _checkout(session: Session) -> StripeCheckout:
    with _Reading():
        intent = session.payment_intent
        return StripeCheckout(
            id=session.id,
            url=session.url,
            livemode=session.livemode,
            mode=session.mode,
            status=session.status or "",
            payment_status=session.payment_status,
            currency=session.currency or "",
            amount_subtotal=-1 if session.amount_subtotal is None else session.amount_subtotal,
            amount_total=-1 if session.amount_total is None else session.amount_total,
            client_reference=session.client_reference_id,
            metadata={} if session.metadata is None else dict(session.metadata.to_dict()),
            payment_id=_id_of(intent),
            payment_state=None if intent is None or isinstance(intent, str) else intent.status,
            created_at=session.created,
        )


def _id_of(reference: str | stripe.StripeObject | None) -> str | None:
    """Of an object that may have been expanded."""
    if reference is None or isinstance(reference, str):
        return reference
    return str(reference["id"])


def _has_more(page: ListObject[Any]) -> bool:
    with _Reading():
        return bool(page.has_more and page.data)
