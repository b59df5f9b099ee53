"""Losing every webhook loses nothing; where nothing was lost, nothing is done."""

from __future__ import annotations

import asyncio

import pytest

from gateway.billing.reconcile import Schedule
from gateway.credits.provider import Drift
from gateway.errors import BillingUnavailable, Conflict
from tests.billing.harness import TORTURE, Gateway

ORDERS = 250 if TORTURE else 8


async def write(gateway: Gateway, statement: str) -> None:
    await gateway.database.transaction(lambda db: db.exec_driver_sql(statement))


def test_with_every_webhook_lost_the_reconciler_alone_makes_it_right(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            keys = [(await gateway.buyer(f"user_{number}"))[1] for number in range(ORDERS)]
            checkouts = [await gateway.buy(key, 2) for key in keys]
            expired, unpaid, failed, later, refunded, disputed, *plain = checkouts
            shop.acts.expire(expired.checkout_id)
            for checkout in (failed, later):
                shop.acts.pay_later(checkout.checkout_id)
            shop.acts.finish(failed.checkout_id, succeeded=False)
            for checkout in (refunded, disputed, *plain):
                shop.acts.pay(checkout.checkout_id)
            shop.acts.refund(refunded.checkout_id, 500)
            shop.acts.dispute(disputed.checkout_id)
            report = await gateway.billing.reconcile(3)
            await gateway.settle()
            expected = dict.fromkeys((checkout.order_id for checkout in checkouts), "fulfilled")
            expected |= {expired.order_id: "expired", unpaid.order_id: "open"}
            expected |= {failed.order_id: "failed", later.order_id: "awaiting_payment"}
            assert shop.states() == expected
            assert [await gateway.available(key) for key in keys[:6]] == [0, 0, 0, 0, 150, 0]
            assert [await gateway.available(key) for key in keys[6:]] == [200] * (ORDERS - 6)
            assert {change.order_id for change in report.changes} == {*expected} - {unpaid.order_id}
            assert (report.checkouts, report.payments, report.failures, report.strays) == (ORDERS, 2, [], [])
            again = await gateway.billing.reconcile(3)
            assert (again.changes, again.failures, again.drift) == ([], [], [])
        shop.audit()

    run(main())


def test_reconciling_at_once_and_beside_webhooks_credits_once(shop, run):
    async def main():
        async with shop.open(), shop.gateway(runs=True) as one, shop.gateway(runs=True) as two:
            keys = [(await one.buyer(f"user_{number}"))[1] for number in range(4)]
            for key in keys:
                shop.acts.pay((await one.buy(key)).checkout_id)
            reports = asyncio.gather(*(g.billing.reconcile(3) for g in (one, two) for _ in range(3)))
            await asyncio.gather(*(g.receive(event) for event in shop.events() for g in (one, two)))
            await reports
            await one.settle()
            assert [await two.available(key) for key in keys] == [100] * 4
        shop.audit()

    run(main())


def test_the_schedule_is_kept_by_one_process_at_a_time(local_shop, run):
    async def main():
        shop = local_shop
        schedule = Schedule(every_seconds=0.4, days=3, long_every_seconds=3600, long_days=30)
        async with (
            shop.open(),
            shop.gateway(runs=True, schedule=schedule) as one,
            shop.gateway(runs=True, schedule=schedule),
        ):
            _, key = await one.buyer()
            checkout = await one.buy(key)
            shop.acts.pay(checkout.checkout_id)
            await asyncio.sleep(1.5)
            assert shop.states() == {checkout.order_id: "fulfilled"}
            # The long look, and then one each 0.4 s at most.
            assert 2 <= shop.stripe.books.calls["checkout.sessions.list"] <= 6

    run(main())


def test_what_could_not_be_looked_at_is_looked_at_again_soon(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            _, key = await gateway.buyer()
            shop.acts.pay((await gateway.buy(key)).checkout_id)
            shop.stripe.faults.set(kind="error", of="checkout.sessions.list", times=1)
            with pytest.raises(BillingUnavailable):
                await gateway.billing._reconciler.work()
            assert await gateway.available(key) == 0
            await gateway.billing._reconciler.work()
            assert await gateway.available(key) == 100
            await gateway.billing._reconciler.work()
            listed = shop.stripe.books.calls["checkout.sessions.list"]
            await gateway.billing._reconciler.work()
            assert shop.stripe.books.calls["checkout.sessions.list"] == listed, "not before its time"

    run(main())


def test_one_payment_that_can_not_be_looked_at_holds_up_no_other(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            keys = [(await gateway.buyer(f"user_{number}"))[1] for number in range(3)]
            for key in keys:
                checkout = await gateway.buy(key)
                shop.acts.pay(checkout.checkout_id)
                shop.acts.refund(checkout.checkout_id, 500)
            shop.stripe.faults.set(kind="error", of="payment_intents.retrieve", times=1)
            report = await gateway.billing.reconcile(3)
            assert len(report.failures) == 1
            assert sorted([await gateway.available(key) for key in keys]) == [50, 50, 100]
            assert (await gateway.billing.reconcile(3)).failures == []
            assert [await gateway.available(key) for key in keys] == [50] * 3

    run(main())


def test_a_dispute_is_followed_to_its_end_however_old_it_is(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            dispute = shop.acts.dispute(checkout.checkout_id)
            await gateway.billing.reconcile(3)
            assert await gateway.available(key) == 0
            dispute["created"] -= 80 * 86_400
            shop.acts.close_dispute(dispute["id"], "won")
            await gateway.billing.reconcile(3)
            assert await gateway.available(key) == 100
            assert (await gateway.provider.get(key.key_id)).enabled

    run(main())


def test_a_dispute_over_money_of_the_other_mode_holds_up_nothing(local_shop, run):
    """Of test money, once real money is taken: our key can't ask about it any more."""

    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            shop.acts.dispute(checkout.checkout_id)
            await gateway.billing.reconcile(3)
            _, other = await gateway.buyer()
            with pytest.raises(Conflict):
                await gateway.buy(other)
            await write(gateway, "UPDATE orders SET livemode = 1 - livemode")
            books = shop.stripe.database
            for table in (books.sessions, books.payment_intents, books.disputes):
                for document in table:
                    table.remove(document["id"])
            assert (await gateway.billing.reconcile(3)).failures == []
            await gateway.buy(other)

    run(main())


def test_an_order_that_never_had_a_checkout_expires_once_stripe_shows_none(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            _, key = await gateway.buyer()
            shop.stripe.faults.set(kind="closed", of="checkout.sessions.create", times=1)
            with pytest.raises(BillingUnavailable):
                await gateway.buy(key)
            await gateway.billing.reconcile(3)
            assert list(shop.states().values()) == ["created"]
            await write(gateway, "UPDATE orders SET created_at = created_at - 3 * 86400000")
            report = await gateway.billing.reconcile(3)
            assert list(shop.states().values()) == ["expired"]
            assert len(report.changes) == 1

    run(main())


def test_a_ledger_that_the_keys_keeper_does_not_share_is_reported(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer(credits=40)
            assert (await gateway.billing.reconcile(3)).drift == []
            if hasattr(shop.ledger, "server"):
                shop.ledger.server.database.balances.increment(key.key_id, 6)
            else:
                await write(gateway, "UPDATE keys SET balance = balance + 6")
            assert (await gateway.billing.reconcile(3)).drift == [Drift(key.key_id, 40, 46)]

    run(main())


def test_old_events_that_are_done_with_are_forgotten(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            shop.acts.pay((await gateway.buy(key)).checkout_id)
            for event in shop.events():
                await gateway.receive(event)
            await gateway.work()
            await write(gateway, "UPDATE stripe_events SET received_at = 0, state = 'dead' WHERE id LIKE '%a%'")
            kept = shop.rows("SELECT count(*) FROM stripe_events WHERE state = 'dead'")
            await write(gateway, "UPDATE stripe_events SET received_at = 0")
            await gateway.billing._retention._work()
            assert shop.rows("SELECT count(*) FROM stripe_events") == kept

    run(main())
