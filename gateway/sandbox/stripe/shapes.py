"""The parameters of each call: those that mean something here, and those that may be given and change nothing.

A parameter that is not named is refused, as Stripe refuses one that it doesn't know. That is stricter than Stripe for
what this stand-in doesn't do: better a refusal in a test than a silence.
"""

from __future__ import annotations

from typing import Any

from gateway.sandbox.stripe.answers import invalid
from gateway.sandbox.stripe.listing import CREATED, PAGING
from gateway.sandbox.stripe.parameters import (
    Shape,
    currency,
    flag,
    ignored,
    integer,
    list_of,
    metadata,
    object_of,
    one_of,
    text,
    url,
)

_EXPAND: dict[str, Shape] = {"expand": list_of(text())}
_METADATA: dict[str, Shape] = {"metadata": metadata()}


def _percent() -> Shape:
    def read(value: Any, name: str) -> float:
        try:
            percent = float(value)
        except (TypeError, ValueError):
            raise invalid(f"Invalid decimal: {value}", name) from None
        if not 0 < percent <= 100:
            raise invalid("percent_off must be between 0 and 100", name)
        return percent

    return read


_PRICE_DATA = object_of(
    {
        "currency": currency(),
        "unit_amount": integer(0),
        "tax_behavior": one_of("exclusive", "inclusive", "unspecified"),
        "product_data": object_of(
            {
                "name": text(250),
                "description": text(),
                "images": list_of(url(), 8),
                "metadata": metadata(),
                "tax_code": text(),
                "unit_label": text(12),
            },
            ("name",),
        ),
    },
    ("currency", "unit_amount", "product_data"),
)
_LINE_ITEM = object_of(
    {"price": text(), "price_data": _PRICE_DATA, "quantity": integer(1, 999_999), "metadata": metadata()}
)
_INTENT_DATA = object_of(
    {
        "capture_method": one_of("automatic", "automatic_async"),
        "description": text(1000),
        "metadata": metadata(),
        "receipt_email": text(512),
        "setup_future_usage": one_of("off_session", "on_session"),
        "statement_descriptor": text(22),
        "statement_descriptor_suffix": text(22),
        "transfer_group": text(),
    }
)
SESSION_CREATE = object_of(
    {
        "adaptive_pricing": object_of({"enabled": flag()}),
        "allow_promotion_codes": flag(),
        "allowed_payment_method_types": list_of(text()),
        "automatic_tax": object_of({"enabled": flag(), "liability": ignored()}, ("enabled",)),
        "billing_address_collection": one_of("auto", "required"),
        "branding_settings": ignored(),
        "cancel_url": url(),
        "client_reference_id": text(200),
        "consent_collection": ignored(),
        "custom_text": ignored(),
        "customer": text(),
        "customer_creation": one_of("always", "if_required"),
        "customer_email": text(800),
        "customer_update": object_of(dict.fromkeys(("address", "name", "shipping"), one_of("auto", "never"))),
        "discounts": list_of(object_of({"coupon": text(), "promotion_code": text()}), 1),
        "expires_at": integer(0),
        "integration_identifier": text(),
        "invoice_creation": object_of({"enabled": flag(), "invoice_data": ignored()}, ("enabled",)),
        "line_items": list_of(_LINE_ITEM, 100),
        "locale": text(),
        "mode": one_of("payment", "setup", "subscription"),
        "origin_context": one_of("mobile_app", "web"),
        "payment_intent_data": _INTENT_DATA,
        "payment_method_configuration": ignored(),
        "saved_payment_method_options": ignored(),
        "submit_type": one_of("auto", "book", "donate", "pay", "subscribe"),
        "success_url": url(),
        "tax_id_collection": ignored(),
        "ui_mode": one_of("hosted_page"),
        **_METADATA,
        **_EXPAND,
    },
    ("mode",),
)
SESSION_LIST = object_of(
    {
        "created": CREATED,
        "customer": text(),
        "customer_details": object_of({"email": text()}, ("email",)),
        "payment_intent": text(),
        "status": one_of("complete", "expired", "open"),
        **PAGING,
    }
)
_ADDRESS = object_of(
    dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"), text(unset=True)), unset=True
)
CUSTOMER = object_of(
    {
        "address": _ADDRESS,
        "description": text(unset=True),
        "email": text(512, unset=True),
        "name": text(256, unset=True),
        "phone": text(unset=True),
        "preferred_locales": list_of(text()),
        "tax_exempt": one_of("exempt", "none", "reverse"),
        **_METADATA,
        **_EXPAND,
    }
)
CUSTOMER_LIST = object_of({"created": CREATED, "email": text(), **PAGING})
REFUND_CREATE = object_of(
    {
        "amount": integer(1),
        "charge": text(),
        "payment_intent": text(),
        "reason": one_of("duplicate", "fraudulent", "requested_by_customer"),
        **_METADATA,
        **_EXPAND,
    }
)
OF_A_PAYMENT = object_of({"charge": text(), "created": CREATED, "payment_intent": text(), **PAGING})
"""Of lists of refunds and disputes."""
INTENT_UPDATE = object_of({"description": text(unset=True), **_METADATA, **_EXPAND})
INTENT_LIST = object_of({"created": CREATED, "customer": text(), **PAGING})
CHARGE_LIST = object_of({"created": CREATED, "customer": text(), "payment_intent": text(), **PAGING})
DISPUTE_UPDATE = object_of({"evidence": ignored(), "submit": flag(), **_METADATA, **_EXPAND})
EVENT_LIST = object_of(
    {"created": CREATED, "delivery_success": flag(), "type": text(), "types": list_of(text(), 20), **PAGING}
)
ENDPOINT_CREATE = object_of(
    {
        "api_version": text(),
        "description": text(unset=True),
        "enabled_events": list_of(text()),
        "url": url(),
        **_METADATA,
        **_EXPAND,
    },
    ("enabled_events", "url"),
)
ENDPOINT_UPDATE = object_of(
    {
        "description": text(unset=True),
        "disabled": flag(),
        "enabled_events": list_of(text()),
        "url": url(),
        **_METADATA,
        **_EXPAND,
    }
)
COUPON_CREATE = object_of(
    {
        "amount_off": integer(1),
        "currency": currency(),
        "duration": one_of("forever", "once", "repeating"),
        "id": text(),
        "name": text(40),
        "percent_off": _percent(),
        **_METADATA,
        **_EXPAND,
    }
)
CODE_CREATE = object_of(
    {
        "active": flag(),
        "code": text(500),
        "max_redemptions": integer(1),
        "promotion": object_of({"coupon": text(), "type": one_of("coupon")}, ("type",)),
        **_METADATA,
        **_EXPAND,
    },
    ("promotion",),
)
CODE_UPDATE = object_of({"active": flag(), **_METADATA, **_EXPAND})
CODE_LIST = object_of({"active": flag(), "code": text(), "created": CREATED, **PAGING})
LIST = object_of({"created": CREATED, **PAGING})
PAGE = object_of(PAGING)
UPDATE = object_of({**_METADATA, **_EXPAND})
NOTHING = object_of(_EXPAND)
