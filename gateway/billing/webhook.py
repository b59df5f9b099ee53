"""A webhook becomes a row of the inbox, or nothing at all.

Only what Stripe has signed within the last five minutes, byte for byte, is looked into; only what is then an event of
our kind of money is stored. It is stored before the answer, and worked on after it.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from typing import Any

from gateway.billing import inbox
from gateway.billing.inbox import StripeEvent
from gateway.billing.stripe_api import TOLERANCE_SECONDS, is_signed
from gateway.database.engine import Database
from gateway.errors import BadRequest, BillingUnavailable, BodyTooLarge, CreditsUnavailable

logger = logging.getLogger("gateway.billing")

BODY_MAX_BYTES = 262_144
EVENT_ID = re.compile(r"evt_[A-Za-z0-9_]{1,200}")
OBJECT_ID = re.compile(r"(cs|pi)_[A-Za-z0-9_]{1,250}")
CHECKOUT_EVENTS = frozenset(
    {
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
        "checkout.session.expired",
    }
)
MONEY_EVENTS = frozenset(
    {
        "charge.refunded",
        "charge.refund.updated",
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.closed",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
        "refund.created",
        "refund.updated",
        "refund.failed",
    }
)
EVENTS = CHECKOUT_EVENTS | MONEY_EVENTS
"""What an endpoint at Stripe should be subscribed to. Anything else is taken and ignored."""


class Webhook:
    """`secrets` are those of every endpoint, old and new: one that fits is enough."""

    def __init__(self, database: Database, secrets: Sequence[str], *, livemode: bool) -> None:
        self._database = database
        self._secrets = tuple(secrets)
        self._livemode = livemode

    async def receive(self, body: bytes, signature: str) -> bool:
        """Store the event; durable on return. False if it was here already.

        Raises BadRequest, BodyTooLarge, BillingUnavailable (Stripe sends it again).
        """
        if len(body) > BODY_MAX_BYTES:
            raise BodyTooLarge(BODY_MAX_BYTES)
        if _is_from_the_future(signature) or not any(is_signed(body, signature, secret) for secret in self._secrets):
            raise BadRequest("The signature does not fit.", cause="a webhook with a signature that does not fit")
        event = self._read(body)
        try:
            return await self._database.transaction(lambda db: inbox.keep(db, event, body))
        except CreditsUnavailable as error:
            raise BillingUnavailable("The event was not stored.", cause=error.cause) from error

    def _read(self, body: bytes) -> StripeEvent:
        """Raises BadRequest: signed, but no event of ours."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadRequest("Not JSON.", cause=f"a signed webhook is not JSON: {error!r}") from error
        if not _is_event(document):
            raise BadRequest("Not an event.", cause="a signed webhook is not a snapshot event")
        if document["livemode"] is not self._livemode:
            kinds = ("test", "live") if self._livemode else ("live", "test")
            logger.error("a %s event came, and our key is a %s one: which endpoint is that?", *kinds)
            raise BadRequest("This is the other mode's endpoint.", cause="an event of the other mode")
        type_ = document["type"]
        object_id = _object_id(type_, document["data"]["object"])
        return StripeEvent(document["id"], type_, object_id, document["created"] * 1000)


def _is_event(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and document.get("object") == "event"
        and isinstance(document.get("id"), str)
        and EVENT_ID.fullmatch(document["id"]) is not None
        and isinstance(document.get("type"), str)
        and len(document["type"]) <= 200
        and "\0" not in document["type"]
        and type(document.get("created")) is int
        and 0 <= document["created"] < 1 << 40
        and isinstance(document.get("livemode"), bool)
        and isinstance(document.get("data"), dict)
        and isinstance(document["data"].get("object"), dict)
    )


def _object_id(type_: str, members: dict[str, Any]) -> str:
    """What to ask Stripe about: the checkout, or the payment. Empty where we have nothing to ask."""
    found: Any = None
    if type_ in CHECKOUT_EVENTS:
        found = members.get("id")
    elif type_ in MONEY_EVENTS:
        found = members.get("payment_intent")
    return found if isinstance(found, str) and OBJECT_ID.fullmatch(found) else ""


def _is_from_the_future(signature: str) -> bool:
    """Stripe's SDK minds only how old a signature is. One made for later could be kept and sent then."""
    found = re.search(r"(?:^|,)t=(\d{1,12})(?:,|$)", signature, re.ASCII)
    return found is None or int(found[1]) > time.time() + TOLERANCE_SECONDS
