"""The app is told: signed, once for each thing, as often as it takes, and calls never wait for it."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager

import pytest
import standardwebhooks

from gateway.billing import notifications as module
from gateway.billing.low_balances import LowBalances
from gateway.billing.notifications import Notifications, Notifier
from gateway.billing.outbox import Outbox
from gateway.config.tree import NotificationsSection
from tests.billing.harness import Gateway

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()


class App:
    """Takes notifications on a socket, and answers `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    @asynccontextmanager
    async def open(self):
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        try:
            yield self
        finally:
            server.close()

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        original = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head.split("\r\n")[1:] if line}
        body = await reader.readexactly(int(fields["content-length"]))
        self.received.append((original, body))
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.status)
        await writer.drain()
        writer.close()

    @property
    def types(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.received]


async def write(gateway: Gateway, statement: str) -> None:
    await gateway.database.transaction(lambda db: db.exec_driver_sql(statement))


@asynccontextmanager
async def notifier(gateway: Gateway, url: str):
    made = Notifier(gateway.database, url, SECRET, timeout_seconds=2)
    try:
        yield made
    finally:
        await made.aclose()


def test_what_happens_to_orders_is_told_signed_by_the_standard(local_shop, run):
    async def main():
        shop, app = local_shop, App()
        async with shop.open(), app.open(), shop.gateway() as gateway, notifier(gateway, app.url) as sender:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key, 2)
            shop.acts.pay(checkout.checkout_id)
            shop.acts.refund(checkout.checkout_id, 500)
            for event in shop.events():
                await gateway.receive(event)
            await gateway.work()
            await sender.work()
            assert sorted(app.types) == ["order.clawed_back", "order.fulfilled"]
            for headers, body in app.received:
                assert standardwebhooks.Webhook(SECRET).verify(body, headers) == json.loads(body)
                with pytest.raises(standardwebhooks.WebhookVerificationError):
                    standardwebhooks.Webhook(SECRET).verify(body + b" ", headers)
                told = json.loads(body)["data"]
                assert (told["order_id"], told["key_id"], told["credits"]) == (checkout.order_id, key.key_id, 200)
            await sender.work()
            assert len(app.received) == 2

    run(main())


def test_a_notification_is_sent_until_it_is_taken_and_is_the_same_each_time(local_shop, run):
    async def main():
        shop, app = local_shop, App()
        async with shop.open(), app.open(), shop.gateway() as gateway, notifier(gateway, app.url) as sender:
            await gateway.database.transaction(lambda db: Outbox(is_on=True).tell(db, "order.fulfilled", {"a": 1}))
            for app.status in (500, 404, 302, 200, 200):
                await sender.work()
                await sender.work()
                await write(gateway, "UPDATE notifications SET due_at = 0")
            assert len(app.received) == 4, "once each time, and no more after the first 200"
            assert len({headers["webhook-id"] for headers, _ in app.received}) == 1
            assert len({body for _, body in app.received}) == 1
            assert shop.rows("SELECT state, attempts FROM notifications") == [("done", 4)]

    run(main())


def test_an_app_that_is_gone_for_days_is_given_up_and_an_administrator_told(local_shop, run, caplog):
    async def main():
        shop, app = local_shop, App()
        async with shop.open(), shop.gateway() as gateway:
            async with app.open():
                url = app.url
            async with notifier(gateway, url) as sender:
                await gateway.database.transaction(lambda db: Outbox(is_on=True).tell(db, "order.fulfilled", {}))
                for _ in range(module.DEAD_AFTER + 3):
                    await sender.work()
                    await write(gateway, "UPDATE notifications SET due_at = 0")
            assert shop.rows("SELECT state, attempts FROM notifications") == [("dead", module.DEAD_AFTER)]
            assert "is given up" in caplog.text

    run(main())


def test_nothing_is_written_for_an_app_that_does_not_want_to_hear(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(tells_app=False) as gateway:
            _, key = await gateway.buyer()
            shop.acts.pay((await gateway.buy(key)).checkout_id)
            for event in shop.events():
                await gateway.receive(event)
            await gateway.work()
            assert shop.rows("SELECT * FROM notifications") == []

    run(main())


def test_each_threshold_is_told_once_when_it_is_crossed_and_again_after_the_balance_had_risen(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            balances = LowBalances(gateway.database, Outbox(is_on=True), [50, 10], "me", every_seconds=0)
            secret, key = await gateway.buyer(credits=100)
            await balances.work()

            async def spend(*amounts: int) -> list[int]:
                for amount in amounts:
                    hold = await gateway.provider.hold(secret.encode(), amount, "/x", f"r{amount}{len(told())}")
                    await gateway.provider.settle(hold, amount)
                    for _ in range(2):
                        await balances.work()
                return told()

            def told():
                rows = shop.rows("SELECT payload FROM notifications")
                return sorted((json.loads(payload)["data"].get("threshold", 0) for (payload,) in rows), reverse=True)

            assert await spend(50) == [], "50 is not below 50"
            assert await spend(1, 1) == [50]
            assert await spend(38, 1) == [50, 10]
            assert await spend(1) == [50, 10]
            assert await spend(8) == [50, 10, 0], "the last one is credits.exhausted"
            assert len(shop.told("credits.exhausted")) == 1
            await gateway.provider.grant(key.key_id, 60, "promo", "", "more")
            await spend(1)
            assert await spend(19) == [50, 50, 10, 0]

    run(main())


def test_a_key_that_falls_far_at_once_is_told_of_once(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            one, two = (
                LowBalances(gateway.database, Outbox(is_on=True), [50, 10], name, every_seconds=0) for name in "ab"
            )
            secret, _ = await gateway.buyer(credits=100)
            await one.work()
            hold = await gateway.provider.hold(secret.encode(), 95, "/x", "r")
            await gateway.provider.settle(hold, 95)
            await asyncio.gather(*(each.work() for each in (one, two) for _ in range(5)))
            assert [told["threshold"] for told in shop.told("credits.low")] == [10]

    run(main())


def test_it_runs_by_itself_as_the_config_says(local_shop, run):
    async def main():
        shop, app = local_shop, App()
        async with shop.open(), app.open(), shop.gateway() as gateway:
            section = NotificationsSection.model_validate(
                {"url": app.url, "secret": SECRET, "thresholds": [20], "look_every_seconds": 0.1}
            )
            secret, _ = await gateway.buyer(credits=30)
            notifications = Notifications(section, gateway.database, keep_days=90)
            await notifications.open()
            try:
                await asyncio.sleep(0.3)
                hold = await gateway.provider.hold(secret.encode(), 30, "/x", "r")
                await gateway.provider.settle(hold, 30)
                for _ in range(400):
                    if app.received:
                        break
                    await asyncio.sleep(0.01)
            finally:
                await notifications.aclose()
            assert app.types == ["credits.exhausted"]

    run(main())
