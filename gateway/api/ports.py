"""What the control plane needs of billing. Who stands behind it is app.py's business."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Pack(Protocol):
    """Credits for sale. `price_cents` is of one pack, in the currency's smallest unit."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def credits(self) -> int: ...
    @property
    def price_cents(self) -> int: ...
    @property
    def currency(self) -> str: ...


class Checkout(Protocol):
    """An order that can be paid for, and the page to pay on."""

    @property
    def order_id(self) -> str: ...
    @property
    def checkout_id(self) -> str: ...
    @property
    def url(self) -> str: ...


class Order(Protocol):
    """One sale. `clawed` are the credits taken back for refunds and disputes; times are Unix milliseconds."""

    @property
    def id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def pack(self) -> str: ...
    @property
    def quantity(self) -> int: ...
    @property
    def credits(self) -> int: ...
    @property
    def currency(self) -> str: ...
    @property
    def amount_cents(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def clawed(self) -> int: ...
    @property
    def checkout_id(self) -> str | None: ...
    @property
    def created_at(self) -> int: ...
    @property
    def updated_at(self) -> int: ...


class Billing(Protocol):
    """Sells packs. Any method may raise BillingUnavailable: the payment provider or the database does not answer."""

    @property
    def packs(self) -> Sequence[Pack]: ...

    async def checkout(self, *, user_id: str, key_id: str, pack: str, quantity: int, attempt: str | None) -> Checkout:
        """Open an order and the page to pay for it. The same `attempt` again gives the same order.

        Raises Invalid (pack, quantity), Conflict."""

    async def order(self, order_id: str) -> Order | None: ...

    async def receive(self, body: bytes, signature: str) -> None:
        """Take an event of the payment provider: stored durably on return. Raises BadRequest where it is forged."""
