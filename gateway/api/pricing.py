"""What is for sale: packs of credits, and what each route costs."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.api.operation import AnyOperation, Model, Operation, Request
from gateway.config.tree import Config, RouteSection, SettledCost

CHECKOUT_PATH = "/checkout"


class PackForSale(Model):
    """Credits that can be bought together."""

    id: str
    """What to say in `POST /checkout`."""
    name: str
    """What the buyer reads."""
    credits: int
    """Credits in one pack."""
    price_cents: int
    """The price of one pack, in the currency's smallest unit."""
    currency: str
    """ISO 4217 code in lower case."""


class PricedRoute(Model):
    """What a call costs."""

    path: str
    """The path; `{name}` is any one segment, `{name:path}` all the rest."""
    methods: list[str]
    """The methods it takes."""
    cost: int | None
    """Credits per call; 0: a key is needed, the call is free. null: no key is needed."""
    at_most: bool
    """Whether `cost` is the most it can be; the answer then says what it was."""


class PriceList(Model):
    """All prices."""

    packs: list[PackForSale]
    """Packs of credits."""
    checkout: str | None
    """Where packs are bought; null: they can't be bought here."""
    routes: list[PricedRoute]
    """The calls that credits are spent on."""


class Pricing:
    """The handler. The price list is the config's, and stays the same while the process runs."""

    def __init__(self, config: Config, *, is_selling: bool) -> None:
        packs = [
            PackForSale(
                id=pack.id,
                name=pack.name,
                credits=pack.credits,
                price_cents=pack.price_cents,
                currency=pack.currency,
            )
            for pack in config.billing.packs
        ]
        checkout = CHECKOUT_PATH if is_selling else None
        self._prices = PriceList(packs=packs, checkout=checkout, routes=[_price(route) for route in config.routes])

    async def prices(self, _request: Request[None, None]) -> PriceList:
        return self._prices

    def operations(self) -> Sequence[AnyOperation]:
        return [
            Operation(
                "getPricing", "GET", "/pricing", "What is for sale",
                "The packs of credits, and what a call of each route costs.", self.prices, None, PriceList,
            )
        ]  # fmt: skip


def _price(route: RouteSection) -> PricedRoute:
    cost = route.cost
    return PricedRoute(
        path=route.path,
        methods=list(route.methods),
        cost=cost.hold if isinstance(cost, SettledCost) else cost,
        at_most=isinstance(cost, SettledCost),
    )
