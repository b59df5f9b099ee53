"""Requests to Stripe that `make check` must refuse, as ours would be refused if they were wrong like that.

mypy reads this beside the gateway. It is strict: where it did not find the error that a comment expects, the comment
itself would be the error. So this file fails the check as soon as the SDK's dictionaries stop to hold.
"""

from __future__ import annotations

from stripe import StripeClient
from stripe.params import CustomerCreateParams, PaymentIntentRetrieveParams, RefundListParams
from stripe.params.checkout import SessionCreateParams, SessionListParams

unknown_name: SessionCreateParams = {"succes_url": "https://shop.example"}  # type: ignore[typeddict-unknown-key]
no_number: SessionCreateParams = {"line_items": [{"quantity": "1"}]}  # type: ignore[typeddict-item]
no_object: SessionCreateParams = {"invoice_creation": True}  # type: ignore[typeddict-item]
deep_inside: SessionCreateParams = {"payment_intent_data": {"meta": {}}}  # type: ignore[typeddict-unknown-key]
of_customers: CustomerCreateParams = {"meta": {}}  # type: ignore[typeddict-unknown-key]
of_payments: PaymentIntentRetrieveParams = {"expands": []}  # type: ignore[typeddict-unknown-key]
of_refunds: RefundListParams = {"payment_intents": "pi_1"}  # type: ignore[typeddict-unknown-key]
of_lists: SessionListParams = {"limits": 1}  # type: ignore[typeddict-unknown-key]


async def ask(client: StripeClient, asked: SessionCreateParams, other: SessionListParams) -> None:
    await client.v1.checkout.sessions.create_async(asked, {"idempotency_keys": "a"})  # type: ignore[arg-type]
    await client.v1.checkout.sessions.create_async(other)  # type: ignore[arg-type]
    await client.v1.checkout.sessions.create_async({**asked, "currencies": 1})  # type: ignore[arg-type]
