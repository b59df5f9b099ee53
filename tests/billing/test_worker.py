"""The inbox: worked off by whoever is there, again when it failed, and never held up by one event."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from gateway.billing import inbox, worker
from gateway.credits.ledger import now_ms
from gateway.sandbox.stripe.malformed import WAYS
from tests.billing.harness import Gateway, Shop


async def paid(shop: Shop, gateway: Gateway, user_id: str = "user_1"):
    _, key = await gateway.buyer(user_id)
    checkout = await gateway.buy(key)
    shop.acts.pay(checkout.checkout_id)
    return key, checkout


async def write(gateway: Gateway, statement: str) -> None:
    await gateway.database.transaction(lambda db: db.exec_driver_sql(statement))


def events(shop: Shop) -> list[tuple[str, int]]:
    return shop.rows("SELECT state, attempts FROM stripe_events WHERE state != 'ignored' ORDER BY id")


def test_an_event_whose_process_died_is_another_ones_when_the_lease_ends(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            key, _ = await paid(shop, gateway)
            (event,) = shop.events("checkout.session.completed")
            await gateway.receive(event)
            until = now_ms() + worker.LEASE_MS
            await gateway.database.transaction(lambda db: inbox.claim(db, "the dead", until, 10))
            await gateway.work()
            assert await gateway.available(key) == 0, "it still belongs to somebody"
            await write(gateway, "UPDATE stripe_events SET due_at = 0")
            await gateway.work()
            assert await gateway.available(key) == 100
            assert events(shop) == [("done", 0)]

    run(main())


def test_processes_share_the_inbox(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as one, shop.gateway() as two:
            keys = [(await paid(shop, one, f"user_{number}"))[0] for number in range(12)]
            for event in shop.events("checkout.session.completed"):
                await one.receive(event)
            asked = shop.stripe.books.calls["checkout.sessions.retrieve"]
            await asyncio.gather(one.work(), two.work())
            assert [await one.available(key) for key in keys] == [100] * 12
            assert shop.stripe.books.calls["checkout.sessions.retrieve"] == asked + 12
        shop.audit()

    run(main())


def test_many_events_about_one_object_are_one_look(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            await paid(shop, gateway)
            (event,) = shop.events("checkout.session.completed")
            for number in range(50):
                await gateway.receive({**event, "id": f"evt_{number}"})
            await gateway.work()
            assert shop.stripe.books.calls["checkout.sessions.retrieve"] == 1
            assert events(shop) == [("done", 0)] * 50

    run(main())


@pytest.mark.parametrize("kind", ["error", "limited", "reset", "closed"])
def test_an_outage_of_stripe_costs_time_and_nothing_else(local_shop, run, kind):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            key, _ = await paid(shop, gateway)
            (event,) = shop.events("checkout.session.completed")
            await gateway.receive(event)
            shop.stripe.faults.set(kind=kind)
            await gateway.work()
            assert events(shop) == [("new", 1)]
            await gateway.work()
            assert events(shop) == [("new", 1)], "not before its time"
            shop.stripe.faults.clear()
            await write(gateway, "UPDATE stripe_events SET due_at = 0")
            await gateway.work()
            assert events(shop) == [("done", 1)]
            assert await gateway.available(key) == 100

    run(main())


def test_an_event_that_fails_too_often_is_dead_told_and_may_be_retried(local_shop, run, caplog):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            key, checkout = await paid(shop, gateway)
            (event,) = shop.events("checkout.session.completed")
            await gateway.receive(event)
            shop.stripe.faults.set(kind="error")
            for _ in range(inbox.DEAD_AFTER):
                await write(gateway, "UPDATE stripe_events SET due_at = 0")
                await gateway.work()
            assert events(shop) == [("dead", inbox.DEAD_AFTER)]
            assert f"about {checkout.checkout_id} are dead" in caplog.text
            (dead,) = await gateway.desk.list_dead(limit=10)
            shop.stripe.faults.clear()
            await gateway.desk.resolve_event(dead.id, "retry")
            await gateway.work()
            assert await gateway.available(key) == 100
            assert await gateway.desk.list_dead(limit=10) == []

    run(main())


def test_waits_between_attempts_grow_and_are_bounded(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            await paid(shop, gateway)
            (event,) = shop.events("checkout.session.completed")
            await gateway.receive(event)
            shop.stripe.faults.set(kind="error")
            waits = []
            for _ in range(inbox.DEAD_AFTER - 1):
                await write(gateway, "UPDATE stripe_events SET due_at = 0")
                await gateway.work()
                waits.append((shop.rows("SELECT due_at FROM stripe_events")[0][0] - now_ms()) / 1000)
            assert all(later > earlier - 5 for earlier, later in itertools.pairwise(waits))
            assert waits[0] < 30
            assert inbox.WAIT_SECONDS_MAX - 60 < waits[-1] <= inbox.WAIT_SECONDS_MAX

    run(main())


def test_one_event_that_can_not_be_worked_on_holds_up_no_other(local_shop, run, caplog):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            poisoned, checkout = await paid(shop, gateway, "user_1")
            key, _ = await paid(shop, gateway, "user_2")
            find = gateway.billing._stripe.find_checkout

            async def find_or_die(checkout_id):
                if checkout_id == checkout.checkout_id:
                    raise ZeroDivisionError
                return await find(checkout_id)

            gateway.billing._stripe.find_checkout = find_or_die
            for event in shop.events("checkout.session.completed"):
                await gateway.receive(event)
            await gateway.work()
            assert (await gateway.available(poisoned), await gateway.available(key)) == (0, 100)
            assert sorted(events(shop)) == [("done", 0), ("new", 1)]
            assert "ZeroDivisionError" in caplog.text

    run(main())


@pytest.mark.parametrize("how", sorted(WAYS))
def test_nonsense_from_stripe_is_no_credit_and_no_crash_and_news_is_no_nonsense(local_shop, run, how):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            key, _ = await paid(shop, gateway)
            (event,) = shop.events("checkout.session.completed")
            await gateway.receive(event)
            shop.stripe.faults.set(kind="malformed", how=how)
            await gateway.work()
            assert await gateway.available(key) == (100 if how == "new_fields" else 0)
            shop.stripe.faults.clear()
            await write(gateway, "UPDATE stripe_events SET due_at = 0")
            await gateway.work()
            assert await gateway.available(key) == 100

    run(main())


def test_a_gateway_that_runs_needs_nobody_to_kick_it(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(runs=True) as gateway, shop.gateway() as other:
            key, _ = await paid(shop, gateway)
            (event,) = shop.events("checkout.session.completed")
            await other.receive(event)
            for _ in range(500):
                if await gateway.available(key):
                    break
                await asyncio.sleep(0.01)
            assert await gateway.available(key) == 100

    run(main())
