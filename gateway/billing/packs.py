"""What is sold. Credits and prices are ours: they come from the config, never from a request or from Stripe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.credits.provider import CREDITS_MAX
from gateway.errors import Invalid

AMOUNT_CENTS_MAX = 99_999_999
"""What Stripe takes in one payment."""


@dataclass(frozen=True, slots=True)
class Pack:
    """Credits for sale. `price_cents` is the price of one pack in the currency's smallest unit."""

    id: str
    name: str
    credits: int
    price_cents: int
    currency: str


@dataclass(frozen=True, slots=True)
class Sale:
    """So many of one pack, and what that comes to."""

    pack: Pack
    quantity: int
    credits: int
    amount_cents: int


class Catalogue:
    """The packs, and how many of one may be bought at once."""

    def __init__(self, packs: Sequence[Pack], quantity_max: int) -> None:
        self.packs = tuple(packs)
        self._quantity_max = quantity_max
        self._by_id = {pack.id: pack for pack in packs}

    def sale(self, pack_id: str, quantity: int) -> Sale:
        """Raises Invalid, naming the field."""
        pack = self._by_id.get(pack_id)
        if pack is None:
            raise Invalid("There is no such pack.", errors={"pack": f"one of {', '.join(self._by_id) or 'none'}"})
        most = min(self._quantity_max, CREDITS_MAX // pack.credits, AMOUNT_CENTS_MAX // pack.price_cents)
        if type(quantity) is not int or not 1 <= quantity <= most:  # True is an int, but no quantity
            raise Invalid("Not so many can be bought.", errors={"quantity": f"a whole number from 1 to {most}"})
        return Sale(pack, quantity, pack.credits * quantity, pack.price_cents * quantity)
