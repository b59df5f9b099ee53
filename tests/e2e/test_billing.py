"""Buying over HTTP from two replicas: real processes, real sockets, a stand-in for Stripe, and kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
from typing import Any

import httpx
import pytest
import uvloop
from stripe import WebhookSignature

from gateway.sandbox.stripe.server import API_KEY, StripeServer
from tests.billing.test_webhook import forgeries
from tests.e2e.harness import COMMAND, TORTURE, count, gateway, settings, until_async
from tests.e2e.unkey import Unkey

SECRET = "whsec_of_the_tests"
CONNECTIONS = 40
PACKS = [{"id": "starter", "name": "Starter", "credits": 100, "price_cents": 1000, "currency": "usd"}]


def selling(directory, stripe_url, *, reconcile_seconds=3600, keeper=None):
    billing = {
        "packs": PACKS,
        "stripe": {"secret_key": API_KEY, "webhook_secret": SECRET, "base_url": stripe_url, "timeout_seconds": 5},
        "success_url": "https://shop.example/done",
        "cancel_url": "https://shop.example/back",
        "reconcile": {"every_seconds": reconcile_seconds, "long_every_seconds": reconcile_seconds},
    }
    keeping = {"heartbeat_seconds": 0.2, "dead_after_seconds": 1}
    if keeper is not None:
        keeping |= {"provider": "unkey", "unkey": keeper}
    return settings(directory, "http://127.0.0.1:9", billing=billing, credits=keeping)


class Shop:
    """Two replicas on one database, and who buys there."""

    def __init__(self, directory, replicas, stripe, client) -> None:
        self.directory, self.replicas, self.stripe, self.client = directory, replicas, stripe, client
        self.unanswered: list[tuple[int, str]] = []
        self.room = asyncio.Semaphore(CONNECTIONS)  # httpx takes its time over long queues of its own

    async def start(self) -> None:
        for replica in self.replicas:
            await asyncio.to_thread(replica.start)

    async def buy(self, secret: str, quantity: int) -> dict[str, str]:
        answer = await self.client.post(
            f"{self.url(0)}/checkout",
            headers={"Authorization": f"Bearer {secret}"},
            json={"pack": "starter", "quantity": quantity},
        )
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def tell(self, which: int, body: bytes) -> int:
        """As Stripe does: signed anew each time, and sent again where no answer came."""
        for _ in range(5):
            status = await self.send(which, body, WebhookSignature.generate_signature_header(body.decode(), SECRET))
            if status:
                return status
        return 0

    async def send(self, which: int, body: bytes, signature: str) -> int:
        """The status of the answer; 0 where none came: the replica is gone, or busy beyond its deadlines."""
        headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
        async with self.room:
            try:
                sent = await self.client.post(f"{self.url(which)}/stripe-webhook", content=body, headers=headers)
            except httpx.HTTPError as error:
                self.unanswered.append((which, repr(error)))
                return 0
        return sent.status_code

    def url(self, which: int) -> str:
        return f"http://127.0.0.1:{self.replicas[which].port}"

    def rows(self, query: str):
        with contextlib.closing(sqlite3.connect(self.directory / "gateway.db")) as connection:
            return connection.execute(query).fetchall()

    def states(self) -> dict[str, str]:
        return dict(self.rows("SELECT id, state FROM orders"))

    async def ask(self, path: str, secret: str) -> dict[str, Any]:
        answer = await self.client.get(f"{self.url(0)}{path}", headers={"Authorization": f"Bearer {secret}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def command(self, *arguments: str) -> tuple[int, Any]:
        """What a person would type: the exit code, and what it prints as JSON."""
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, *arguments, "--json", "-c", self.replicas[0].config_file), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return process.returncode, json.loads(out)


def in_a_shop(directory, act, **config) -> None:
    async def main() -> None:
        stripe = StripeServer()
        await stripe.start()
        limits = httpx.Limits(max_connections=2 * CONNECTIONS)
        try:
            with (
                gateway(directory, selling(directory, stripe.url, **config), name="one") as one,
                gateway(directory, selling(directory, stripe.url, **config), name="two") as two,
            ):
                async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as client:
                    await act(Shop(directory, (one, two), stripe, client))
        finally:
            await stripe.aclose()

    uvloop.run(main())


@pytest.mark.timeout(count(300, 600))
@pytest.mark.parametrize("keeper", ["local", "unkey"] if TORTURE else ["local"])
def test_every_paid_order_is_credited_once_by_two_replicas_of_which_one_is_killed(tmp_path, keeper):
    """Each event many times at once, shuffled, under two ids; half of the buyers land before anything was told."""
    buyers, copies = count(5, 10), count(5, 50)

    async def act(shop: Shop) -> None:
        dice = random.Random(7)
        keys = [await asyncio.to_thread(shop.replicas[0].create_key, 0, f"user-{n}") for n in range(buyers)]
        await shop.start()
        bought = [await shop.buy(secret, number + 1) for number, (secret, _) in enumerate(keys)]
        for order in bought:
            shop.stripe.acts.pay(order["checkout_id"])
        landing = [poll(shop, order, secret) for order, (secret, _) in zip(bought, keys, strict=True)]
        await asyncio.gather(*landing[::2])
        deliveries = []
        for event in shop.stripe.database.events:
            for twin in ("", "_twin"):
                body = json.dumps({**event, "id": event["id"] + twin})
                deliveries += [body.encode()] * copies
        dice.shuffle(deliveries)
        half = len(deliveries) // 2
        first = asyncio.gather(*(shop.tell(dice.choice((0, 1)), body) for body in deliveries[:half]))
        await until_async(lambda: shop.rows("SELECT 1 FROM stripe_events LIMIT 1"))
        shop.replicas[1].kill_group()
        assert set(await first) <= {200, 0}
        assert {which for which, _ in shop.unanswered} <= {1}, "the one that lives has answered everybody"
        await asyncio.to_thread(shop.replicas[1].start)
        shop.unanswered.clear()
        again = await asyncio.gather(*(shop.tell(dice.choice((0, 1)), body) for body in deliveries))
        assert (set(again), shop.unanswered) == ({200}, [])
        await asyncio.gather(*landing[1::2])
        balances = [(await shop.ask("/credits", secret))["available"] for secret, _ in keys]
        assert balances == [100 * (n + 1) for n in range(buyers)]
        assert shop.rows("SELECT count(*) FROM entries WHERE kind = 'purchase'") == [(buyers,)]

    if keeper == "local":
        in_a_shop(tmp_path, act)
    else:
        with Unkey() as unkey:
            in_a_shop(tmp_path, act, keeper=unkey.section())


ODD = {
    "another amount": {"amount_subtotal": 1},
    "another currency": {"currency": "jpy"},
    "another mode": {"mode": "subscription"},
    "money of the other mode": {"livemode": True},
    "metadata of another order": {"metadata": {"order_id": "order_of_somebody", "credits": "1000000"}},
    "another order's reference": {"client_reference_id": "order_of_somebody"},
}


def test_without_any_webhook_what_is_paid_is_credited_and_what_is_odd_is_shown_to_a_person(tmp_path):
    orders = count(len(ODD) + 4, len(ODD) + 100)

    async def act(shop: Shop) -> None:
        one, two = shop.replicas
        keys = [await asyncio.to_thread(one.create_key, 0, f"user-{n}") for n in range(orders)]
        await asyncio.to_thread(one.start)
        bought = [await shop.buy(secret, 2) for secret, _ in keys]
        *paid, unpaid, later = bought
        odd = dict(zip((order["order_id"] for order in paid), ODD.values(), strict=False))
        for order in paid:
            shop.stripe.acts.pay(order["checkout_id"])
            shop.stripe.database.sessions.get(order["checkout_id"]).update(odd.get(order["order_id"], {}))
        shop.stripe.acts.pay_later(later["checkout_id"])
        expected = {order["order_id"]: "review" if order["order_id"] in odd else "fulfilled" for order in paid}
        expected |= {unpaid["order_id"]: "open", later["order_id"]: "awaiting_payment"}
        await until_async(lambda: shop.states() == expected, 60)
        for order, (secret, _) in zip(bought, keys, strict=True):
            shown = await shop.ask(f"/orders/{order['order_id']}", secret)
            assert shown["state"] == expected[order["order_id"]]
            given = 200 if shown["state"] == "fulfilled" else 0
            assert (await shop.ask("/credits", secret))["available"] == given
        _, listed = await shop.command("orders", "list")
        assert {order["id"] for order in listed} == set(odd)
        await asyncio.to_thread(two.start)  # it counts as soon as it lives

        async def metric() -> str:
            return (await shop.client.get(f"http://127.0.0.1:{two.admin_port}/metrics")).text

        while f"gateway_orders_for_a_person {len(odd)}" not in await metric():
            await asyncio.sleep(0.05)
        assert shop.rows("SELECT count(*) FROM stripe_events") == [(0,)]

    in_a_shop(tmp_path, act, reconcile_seconds=1)


async def poll(shop: Shop, order: dict[str, str], secret: str) -> None:
    """As the buyer's landing page does."""
    for number in range(400):
        answer = await shop.client.get(
            f"{shop.url(number % 2)}/orders/{order['order_id']}", headers={"Authorization": f"Bearer {secret}"}
        )
        assert answer.status_code == 200
        if answer.json()["state"] == "fulfilled":
            return
        await asyncio.sleep(0.05)
    raise AssertionError(shop.states())


def test_forged_webhooks_are_refused_over_http_without_a_trace(tmp_path):
    async def act(shop: Shop) -> None:
        await asyncio.to_thread(shop.replicas[0].start)
        seen = {}
        for name, body, signature in forgeries():
            if signature.isascii() and signature.isprintable():
                seen[name] = await shop.send(0, body, signature)
        assert len(seen) >= 60
        assert {name: status for name, status in seen.items() if status != 400} == {}
        assert await shop.send(0, b" " * 10_000_000, "t=1,v1=0") in {413, 0}
        assert (await shop.client.get(f"{shop.url(0)}/readyz")).status_code == 200
        assert shop.rows("SELECT count(*) FROM stripe_events") == [(0,)]
        assert "Traceback" not in shop.replicas[0].errors

    in_a_shop(tmp_path, act)


def test_the_command_line_reconciles_what_no_webhook_told(tmp_path):
    async def act(shop: Shop) -> None:
        one = shop.replicas[0]
        secret, key_id = await asyncio.to_thread(one.create_key, 0)
        await asyncio.to_thread(one.start)
        order = await shop.buy(secret, 2)
        shop.stripe.acts.pay(order["checkout_id"])
        exit_code, report = await shop.command("reconcile")
        assert exit_code == 0
        assert [change["order_id"] for change in report["changes"]] == [order["order_id"]]
        assert (report["failures"], report["strays"], report["drift"]) == ([], [], [])
        assert shop.rows(f"SELECT balance FROM keys WHERE key_id = '{key_id}'") == [(200,)]

    in_a_shop(tmp_path, act)
