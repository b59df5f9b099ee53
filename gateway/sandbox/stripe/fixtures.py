"""New objects, begun from Stripe's own examples (fixtures/, see SOURCE.md there).

The examples fill optional members with whatever fits their type; `LIVING` says what an object has that was just made.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from gateway.sandbox.stripe.copying import copied

KINDS = (
    "balance_transaction",
    "charge",
    "checkout.session",
    "customer",
    "dispute",
    "event",
    "invoice",
    "payment_intent",
    "payment_method",
    "price",
    "product",
    "promotion_code",
    "refund",
    "webhook_endpoint",
)
ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
LIVING: dict[str, dict[str, Any]] = {
    "checkout.session": {
        "after_expiration": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "currency_conversion": None,
        "custom_text": dict.fromkeys(
            ("after_submit", "shipping_address", "submit", "terms_of_service_acceptance"),
        ),
        "customer_details": None,
        "managed_payments": {"enabled": False},
        "payment_intent": None,
        "payment_method_collection": "if_required",
        "payment_method_configuration_details": None,
        "permissions": None,
        "saved_payment_method_options": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "ui_mode": "hosted_page",
        "wallet_options": None,
    },
    "payment_intent": {
        "amount_details": {"tip": {}},
        "automatic_payment_methods": None,
        "canceled_at": None,
        "last_payment_error": None,
        "managed_payments": {"enabled": False},
        "next_action": None,
        "payment_method_configuration_details": None,
        "processing": None,
        "shipping": None,
        "transfer_data": None,
    },
    "charge": {
        "description": None,
        "shipping": None,
        "source": None,
        "transfer_data": None,
        "receipt_url": None,
        "refunds": None,
    },
    "refund": {"destination_details": {"card": {"type": "refund"}, "type": "card"}},
    "dispute": {"enhanced_eligibility_types": [], "reason": "fraudulent"},
    "customer": {"discount": None, "shipping": None},
    "price": {"custom_unit_amount": None, "recurring": None, "transform_quantity": None, "type": "one_time"},
    "product": {"default_price": None, "description": None, "package_dimensions": None, "type": "service"},
    "promotion_code": {"active": True, "expires_at": None},
    "payment_method": {"metadata": {}},
    "balance_transaction": {"description": None},
    "webhook_endpoint": {"description": None},
}


class Fixtures:
    """Stripe's examples, read once."""

    def __init__(self) -> None:
        directory = files(__package__) / "fixtures"
        self._examples = {kind: json.loads((directory / f"{kind}.json").read_bytes()) for kind in KINDS}
        for kind, members in LIVING.items():
            self._examples[kind].update(members)

    def new(self, kind: str, **members: Any) -> dict[str, Any]:
        """An object of that kind with these members, the others as in the example."""
        made: dict[str, Any] = copied(self._examples[kind])
        made.update(members)
        return made
