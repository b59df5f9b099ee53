"""Line items and what they come to: subtotal, discount, tax, total. Amounts in the currency's smallest unit."""

from __future__ import annotations

import dataclasses
from typing import Any

from gateway.sandbox.stripe.answers import invalid, not_now
from gateway.sandbox.stripe.currencies import least_amount, shown
from gateway.sandbox.stripe.database import Database, Document, new_id

AMOUNT_MAX = 99_999_999


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """What a session comes to."""

    subtotal: int
    discount: int
    tax: int
    total: int


def line_item(database: Database, asked: dict[str, Any], number: int) -> Document:
    """A line item of what the parameters `line_items[number]` say. Raises Refusal."""
    where = f"line_items[{number}]"
    if "price" in asked:
        raise not_now(f"No such price: '{asked['price']}'", "resource_missing", f"{where}[price]")
    if "price_data" not in asked:
        raise invalid(f"You must provide one of `price` or `price_data` for {where}.", where, "parameter_missing")
    if "quantity" not in asked:
        raise invalid(f"Quantity is required. Add `quantity` to `{where}`", f"{where}[quantity]")
    data = asked["price_data"]
    product_data = data["product_data"]
    product = database.new(
        "product",
        "prod_",
        name=product_data["name"],
        description=product_data.get("description"),
        metadata=product_data.get("metadata", {}),
        active=False,
        updated=database.now(),
    )
    database.products.add(product)
    amount = data["unit_amount"]
    price = database.new(
        "price",
        "price_",
        active=False,
        currency=data["currency"],
        product=product["id"],
        tax_behavior=data.get("tax_behavior", "unspecified"),
        unit_amount=amount,
        unit_amount_decimal=str(amount),
    )
    subtotal = amount * asked["quantity"]
    return {
        "id": new_id("li_"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": subtotal,
        "amount_tax": 0,
        "amount_total": subtotal,
        "currency": price["currency"],
        "description": product["name"],
        "metadata": asked.get("metadata", {}),
        "price": price,
        "quantity": asked["quantity"],
    }


def check_currency(items: list[Document]) -> str:
    """The one currency of them all. Raises Refusal."""
    currency: str = items[0]["currency"]
    if any(item["currency"] != currency for item in items):
        raise not_now("All line items must have the same currency.")
    return currency


def totals_of(items: list[Document], coupon: Document | None, tax_percent: float) -> Totals:
    """Sets the items' own amounts too. The discount is spread over the items, the last one takes the rest."""
    subtotal = sum(item["amount_subtotal"] for item in items)
    discount = _discount(subtotal, coupon)
    left, tax = discount, 0
    for number, item in enumerate(items):
        share = left if number == len(items) - 1 else discount * item["amount_subtotal"] // max(1, subtotal)
        left -= share
        due = item["amount_subtotal"] - share
        inclusive = item["price"]["tax_behavior"] == "inclusive"
        item_tax = round(due - due / (1 + tax_percent / 100)) if inclusive else round(due * tax_percent / 100)
        item["amount_discount"], item["amount_tax"] = share, item_tax
        item["amount_total"] = due if inclusive else due + item_tax
        tax += item_tax
    return Totals(subtotal, discount, tax, sum(item["amount_total"] for item in items))


def check_total(total: int, currency: str) -> None:
    """Nothing at all, or no less than Stripe takes. Raises Refusal."""
    least = least_amount(currency)
    if 0 < total < least:
        message = f"The Checkout Session's total amount due must add up to at least {shown(least, currency)}"
        raise not_now(message, "amount_too_small")
    if total > AMOUNT_MAX:
        most = shown(AMOUNT_MAX, currency)
        message = f"The Checkout Session's total amount must be no more than {most} {currency}"
        raise not_now(message, "amount_too_large")


def _discount(subtotal: int, coupon: Document | None) -> int:
    if coupon is None:
        return 0
    if coupon["percent_off"] is not None:
        return round(subtotal * float(coupon["percent_off"]) / 100)
    return min(subtotal, int(coupon["amount_off"]))
