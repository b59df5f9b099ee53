"""Stripe's description of request bodies (tests/data/stripe-request-schemas), as something that requests pass.

It is older than the SDK: a parameter that it doesn't know may pass if the SDK's own dictionaries know it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import stripe
from jsonschema import Draft202012Validator
from stripe.params.checkout import SessionCreateParams

DIRECTORY = Path(__file__).parents[1] / "data" / "stripe-request-schemas"
SCHEMAS = {
    "checkout.sessions.create": ("v1_checkout_sessions", SessionCreateParams),
    "checkout.sessions.expire": ("v1_checkout_sessions_session_expire", stripe.params.checkout.SessionExpireParams),
    "customers.create": ("v1_customers", stripe.params.CustomerCreateParams),
    "refunds.create": ("v1_refunds", stripe.params.RefundCreateParams),
}


@functools.cache
def _validator(call):
    name, params = SCHEMAS[call]
    schema = json.loads((DIRECTORY / f"{name}.json").read_text())
    for newer in params.__annotations__.keys() - schema["properties"].keys():
        schema["properties"][newer] = {}
    return Draft202012Validator(schema)


def check_requests(server):
    """Fails if the stand-in carried out a request that Stripe's description doesn't allow. Gives how many it held."""
    held = 0
    for received in server.books.requests:
        if received.call not in SCHEMAS or received.status != 200:
            continue
        typed = server.calls.by_name[received.call].shape(received.parameters, "")
        problems = [error.message for error in _validator(received.call).iter_errors(_without_unset(typed))]
        assert problems == [], received
        held += 1
    return held


def _without_unset(value):
    """What was unset by an empty text is an empty text in the description."""
    if isinstance(value, dict):
        return {name: _without_unset(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_without_unset(member) for member in value]
    return "" if value is None else value
