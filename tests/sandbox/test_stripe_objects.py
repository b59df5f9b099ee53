"""The stand-in's objects are Stripe's: begun from its own examples, with the members of the SDK's classes."""

from __future__ import annotations

import json
from decimal import Decimal
from importlib.resources import files
from typing import ClassVar, Literal, Union, get_args, get_origin

import pytest
import stripe
from stripe.params.checkout import SessionCreateParams, SessionListParams

import gateway.sandbox.stripe
from gateway.sandbox.stripe import shapes
from gateway.sandbox.stripe.currencies import shown
from gateway.sandbox.stripe.fixtures import KINDS, Fixtures
from tests.sandbox.stripe_caller import tell

CLASSES = {
    "checkout.session": stripe.checkout.Session,
    "payment_intent": stripe.PaymentIntent,
    "payment_method": stripe.PaymentMethod,
    "charge": stripe.Charge,
    "balance_transaction": stripe.BalanceTransaction,
    "refund": stripe.Refund,
    "dispute": stripe.Dispute,
    "customer": stripe.Customer,
    "event": stripe.Event,
    "price": stripe.Price,
    "product": stripe.Product,
    "coupon": stripe.Coupon,
    "promotion_code": stripe.PromotionCode,
    "webhook_endpoint": stripe.WebhookEndpoint,
    "item": stripe.LineItem,
}


async def everything(caller):
    """One object of each kind at least, in many states, as the API shows them."""
    caller.acts.promotion_code("FREE", percent_off=100)
    first = await caller.paid(customer_creation="always")
    caller.acts.refund(first.id, 100)
    caller.acts.close_dispute(caller.acts.dispute(first.id, 100)["id"], "won")
    later = await caller.create(allow_promotion_codes=True, automatic_tax={"enabled": True})
    caller.acts.pay_later(later.id)
    free = await caller.create(allow_promotion_codes=True)
    caller.acts.pay(free.id, promotion_code="FREE")
    declined = await caller.create()
    caller.acts.decline(declined.id)
    caller.acts.expire(declined.id)
    found = []
    for path in (
        "checkout/sessions",
        "payment_intents",
        "charges",
        "balance_transactions",
        "refunds",
        "disputes",
        "customers",
        "events",
        "coupons",
        "promotion_codes",
        "webhook_endpoints",
        f"checkout/sessions/{first.id}/line_items",
    ):
        page = (await caller.send("GET", f"/v1/{path}?limit=100")).json()
        assert page["object"] == "list"
        found += page["data"]
    return [*found, *caller.server.database.products, *caller.server.database.payment_methods]


def test_every_object_has_the_members_of_the_sdks_class_and_no_others():
    async def story(caller):
        problems = set()
        kinds = set()
        for document in await everything(caller):
            kinds.add(document["object"])
            problems |= set(misfits(document))
        assert problems == set()
        assert kinds >= CLASSES.keys() - {"price"}

    tell(story)


def misfits(document):
    """What the SDK's class says otherwise: members it doesn't know, lacks, or that have another type."""
    kind = document["object"]
    declared = {name: hint for name, hint in CLASSES[kind].__annotations__.items() if not name.startswith("_")}
    for name, value in document.items():
        if name not in declared:
            yield f"{kind}.{name} is unknown"
        elif not fits(value, declared[name]):
            yield f"{kind}.{name} is {value!r}"
    for name, hint in declared.items():
        if name not in document and name != "deleted" and not fits(None, hint) and get_origin(hint) is not ClassVar:
            yield f"{kind}.{name} is missing"


def fits(value, hint):
    """Whether the hint allows the value, as far as it speaks of plain values; an object fits any class."""
    if get_origin(hint) is Union:
        return any(fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, str, bool, type(None)):
        return type(value) is (type(None) if hint is None else hint)
    if get_origin(hint) is list:
        return isinstance(value, list)
    if hint is Decimal:
        return isinstance(value, str)
    return value is not None and (hint is float or isinstance(value, dict) or not isinstance(hint, type))


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_are_in_the_package_as_published_with_their_licence(kind):
    directory = files(gateway.sandbox.stripe) / "fixtures"
    text = (directory / f"{kind}.json").read_text()
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) == text
    assert "MIT License" in (directory / "LICENSE").read_text()
    assert "stripe/openapi" in (directory / "SOURCE.md").read_text()


def test_a_new_object_shares_nothing_with_the_next():
    fixtures = Fixtures()
    fixtures.new("customer")["address"]["city"] = "Berlin"
    assert fixtures.new("customer")["address"]["city"] is None


@pytest.mark.parametrize(
    ("shape", "params"),
    [
        (shapes.SESSION_CREATE, SessionCreateParams),
        (shapes.SESSION_LIST, SessionListParams),
        (shapes.CUSTOMER, stripe.params.CustomerCreateParams),
        (shapes.REFUND_CREATE, stripe.params.RefundCreateParams),
        (shapes.OF_A_PAYMENT, stripe.params.RefundListParams),
        (shapes.OF_A_PAYMENT, stripe.params.DisputeListParams),
        (shapes.CHARGE_LIST, stripe.params.ChargeListParams),
        (shapes.INTENT_LIST, stripe.params.PaymentIntentListParams),
        (shapes.EVENT_LIST, stripe.params.EventListParams),
        (shapes.DISPUTE_UPDATE, stripe.params.DisputeUpdateParams),
        (shapes.ENDPOINT_CREATE, stripe.params.WebhookEndpointCreateParams),
        (shapes.ENDPOINT_UPDATE, stripe.params.WebhookEndpointUpdateParams),
        (shapes.COUPON_CREATE, stripe.params.CouponCreateParams),
        (shapes.CODE_CREATE, stripe.params.PromotionCodeCreateParams),
    ],
)
def test_every_parameter_that_is_understood_is_one_of_stripes(shape, params):
    assert shape.fields.keys() <= params.__annotations__.keys()


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [(150, "usd", "$1.50"), (123456, "eur", "€1,234.56"), (150, "jpy", "150 JPY"), (5, "chf", "0.05 CHF")],
)
def test_amounts_are_written_for_people(amount, currency, text):
    assert shown(amount, currency) == text
