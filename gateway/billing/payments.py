"""What Stripe says, in our words: its checkout and what became of a payment. Only what somebody here needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """How checkouts are made. `invoices`: Stripe writes an invoice for each payment."""

    success_url: str
    cancel_url: str
    promotion_codes: bool = False
    automatic_tax: bool = False
    invoices: bool = False


@dataclass(frozen=True, slots=True)
class StripeCheckout:
    """A Checkout Session. Amounts are in the currency's smallest unit; `created_at` is in Unix seconds.

    `metadata` are as we gave them to it, or not; `client_reference` is its own word for the order. `payment_id` None:
    there is nothing to pay, or nobody has tried yet. `payment_status` is paid, unpaid or no_payment_required;
    `payment_state` is the payment intent's own status.
    """

    id: str
    url: str | None
    livemode: bool
    mode: str
    status: str
    payment_status: str
    currency: str
    amount_subtotal: int
    amount_total: int
    client_reference: str | None
    metadata: Mapping[str, str]
    payment_id: str | None
    payment_state: str | None
    created_at: int

    @property
    def order_id(self) -> str | None:
        """The order that it says it is of."""
        return self.client_reference or self.metadata.get("order_id")


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as it stands now. `amount` is what was charged, `returned` what of it has gone back or may: refunds
    that have not failed, disputes that are not won. `is_disputed`: the bank has not decided yet; `is_lost`: it has
    decided against us."""

    id: str
    amount: int
    returned: int
    is_disputed: bool
    is_lost: bool
