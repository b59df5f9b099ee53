"""Where Stripe tells what happened. The bytes are handed on as they came: the signature is over them."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.api.operation import AnyOperation, Model, Operation, Request
from gateway.api.ports import Billing
from gateway.errors import BadRequest, BillingNotConfigured, BillingUnavailable

EVENT_MAX_BYTES = 262_144
"""Stripe's events are a few KiB."""
SIGNATURE_MAX_BYTES = 4_096


class Received(Model):
    """The event is stored, and need not be sent again."""

    received: bool
    """Always true."""


class Webhook:
    """The handler. `billing` None: nothing is sold."""

    def __init__(self, billing: Billing | None) -> None:
        self._billing = billing

    async def receive(self, request: Request[bytes, None]) -> Received:
        if self._billing is None:
            raise BillingNotConfigured
        signatures = [value for name, value in request.headers if name == b"stripe-signature"]
        if len(signatures) != 1 or not signatures[0].isascii() or len(signatures[0]) > SIGNATURE_MAX_BYTES:
            raise BadRequest("One Stripe-Signature is needed.")
        if not request.body:
            raise BadRequest("An event is needed.")
        await self._billing.receive(request.body, signatures[0].decode("ascii"))
        return Received(received=True)

    def operations(self) -> Sequence[AnyOperation]:
        return [
            Operation(
                "receiveStripeEvent", "POST", "/stripe-webhook", "For Stripe's events",
                "200 once the event is safely stored; what it leads to is done afterwards. Forged ones are 400.",
                self.receive, None, Received, body=EVENT_MAX_BYTES, changes=True,
                problems=(BillingNotConfigured, BillingUnavailable),
                header_fields={"Stripe-Signature": "What Stripe signs the body with."},
            )
        ]  # fmt: skip
