"""A shop on a fresh database: a stand-in for Stripe, as many gateways as wanted, and the audit of all their books."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stripe import WebhookSignature

from gateway.billing.desk import OrderDesk
from gateway.billing.packs import Pack
from gateway.billing.payments import Terms
from gateway.billing.reconcile import Schedule
from gateway.billing.service import Billing, BillingSettings
from gateway.credits.provider import ApiKey
from gateway.sandbox.stripe.server import API_KEY, StripeServer
from tests.credits.conftest import Ledger
from tests.credits.unkey.harness import UnkeyLedger

SECRET = "whsec_of_the_tests"
PACKS = (Pack("starter", "Starter", 100, 1000, "usd"), Pack("large", "Large", 1500, 9900, "eur"))
TORTURE = bool(os.environ.get("TORTURE"))
NEVER = Schedule(every_seconds=86_400, days=3, long_every_seconds=86_400, long_days=30)


@dataclass
class Gateway:
    """One process, as far as billing goes."""

    provider: Any
    billing: Billing

    @property
    def database(self):
        return self.provider._database

    @property
    def desk(self):
        return OrderDesk(self.database, self.billing._fulfilment._crediting)

    async def buyer(self, user_id: str = "user_1", credits: int = 0) -> tuple[str, ApiKey]:
        return await self.provider.create(user_id, credits=credits)

    async def buy(self, key: ApiKey, quantity: int = 1, pack: str = "starter", attempt: str | None = None):
        return await self.billing.checkout(
            user_id=key.user_id, key_id=key.key_id, pack=pack, quantity=quantity, attempt=attempt
        )

    async def receive(self, event: dict[str, Any], secret: str = SECRET) -> None:
        body = json.dumps(event)
        await self.billing.receive(body.encode(), WebhookSignature.generate_signature_header(body, secret))

    async def work(self) -> None:
        """Everything that is due, by this process alone."""
        await self.billing._inbox._work()
        await self.settle()

    async def settle(self) -> None:
        """See what is on its way to its end."""
        for _ in range(200):
            await self.billing._follow_up._work()
            open_ = await self.database.read(
                lambda db: db.exec_driver_sql(
                    "SELECT (SELECT count(*) FROM orders WHERE state = 'paid') + (SELECT count(*) FROM claws)"
                ).scalar()
            )
            if not open_:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("credits are on their way for ever")

    async def available(self, key: ApiKey) -> int:
        balance = await self.provider.balance(key.key_id)
        assert balance.available >= 0
        return balance.available


class Shop:
    """Opens gateways on one database and one stand-in for Stripe, as so many processes would."""

    def __init__(self, path: Path, keeper: str = "local") -> None:
        self.ledger = {"local": Ledger, "unkey": UnkeyLedger}[keeper](path)
        self.stripe = StripeServer(webhook_url=None)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Shop]:
        await self.stripe.start()
        try:
            yield self
        finally:
            await self.stripe.aclose()

    @contextlib.asynccontextmanager
    async def gateway(
        self, *, runs: bool = False, keeper: dict[str, Any] | None = None, **changed: Any
    ) -> AsyncIterator[Gateway]:
        """`runs`: it works by itself; else it does what it is told to. `keeper` are settings of the provider."""
        async with self.ledger.provider(**(keeper or {})) as provider:
            billing = Billing(provider._database, provider, self.settings(**changed))
            if runs:
                await billing.open()
            try:
                yield Gateway(provider, billing)
            finally:
                await billing.aclose()

    def settings(self, **changed: Any) -> BillingSettings:
        terms = Terms("https://shop.example/done", "https://shop.example/back?x=1", promotion_codes=True)
        settings = {
            "secret_key": API_KEY,
            "webhook_secrets": ["whsec_of_another_endpoint", SECRET],
            "packs": PACKS,
            "terms": terms,
            "base_url": self.stripe.url,
            "timeout_seconds": 5,
            "poll_seconds": 0.05,
            "schedule": NEVER,
            "tells_app": True,
        }
        return BillingSettings(**{**settings, **changed})

    @property
    def acts(self):
        return self.stripe.acts

    def events(self, *types: str) -> list[dict[str, Any]]:
        """What Stripe has to tell, in the order in which it happened."""
        return [event for event in self.stripe.database.events if not types or event["type"] in types]

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.ledger.rows(query, *values)

    def states(self) -> dict[str, str]:
        return dict(self.rows("SELECT id, state FROM orders"))

    def debt(self, user_id: str = "user_1") -> int:
        rows = self.rows("SELECT debt FROM accounts WHERE user_id = ?", user_id)
        return rows[0][0] if rows else 0

    def told(self, type_: str) -> list[dict[str, Any]]:
        """What the app is to be told, of that kind."""
        rows = self.rows("SELECT payload FROM notifications WHERE type = ? ORDER BY created_at, id", type_)
        return [json.loads(payload)["data"] for (payload,) in rows]

    def audit(self) -> None:
        """I5 and I6, from the tables and Stripe's books: what was paid was credited once, what went back was clawed."""
        self.ledger.audit()
        sales = {sale["session"]: sale for sale in self.stripe.books.sales()}
        for order_id, checkout_id, state, bought, clawed, reference in self.rows(
            "SELECT id, checkout_id, state, credits, clawed, reference FROM orders"
        ):
            credited = self.rows(
                "SELECT coalesce(sum(amount), 0) FROM entries WHERE reference IN (?, ?)",
                reference,
                f"failed:{reference}",
            )[0][0]
            assert credited == (bought if state in {"paid", "fulfilled"} else 0), (order_id, state, credited)
            sale = sales.get(checkout_id)
            if sale is not None and state in {"paid", "fulfilled"}:
                assert sale["payment_status"] != "unpaid", f"{order_id} was never paid"
            assert 0 <= clawed <= bought
        for (user_id,) in self.rows("SELECT DISTINCT user_id FROM orders"):
            credited, clawed = self.rows(
                """SELECT coalesce(sum(credits), 0), coalesce(sum(clawed), 0) FROM orders
                   WHERE user_id = ? AND state IN ('paid', 'fulfilled')""",
                user_id,
            )[0]
            moved = self.rows(
                """SELECT coalesce(sum(e.amount), 0) FROM entries e JOIN keys k ON k.id = e.key WHERE k.user_id = ?
                   AND (e.kind IN ('purchase', 'clawback', 'reinstate') OR e.reference LIKE 'short:%'
                        OR e.reference LIKE 'failed:%')""",
                user_id,
            )[0][0]
            assert moved == credited - clawed + self.debt(user_id), (moved, credited, clawed, self.debt(user_id))
