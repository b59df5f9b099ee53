"""A paid order is credited exactly once (I5), whatever happens to webhooks, processes and Stripe's answers."""

from __future__ import annotations

import asyncio
import copy
import random

import pytest

from gateway.errors import BillingUnavailable, Conflict, Invalid
from tests.billing.harness import TORTURE, Gateway, Shop

COPIES = 50 if TORTURE else 8
ORDERS = 20 if TORTURE else 4


def test_each_event_many_times_in_parallel_to_two_processes_credits_once(shop, run):
    """Shuffled, under other event ids too, before and after the buyer's landing page."""

    async def main():
        dice = random.Random(4)
        async with shop.open(), shop.gateway(runs=True) as one, shop.gateway(runs=True) as two:
            keys, checkouts = [], []
            for number in range(ORDERS):
                _, key = await one.buyer(f"user_{number}")
                keys.append(key)
                checkouts.append(await one.buy(key, number + 1))
            for checkout in checkouts:
                shop.acts.pay(checkout.checkout_id)
            await asyncio.gather(*(g.billing.order(c.order_id) for c in checkouts[::2] for g in (one, two)))
            events = []
            for event in shop.events():
                twin = {**event, "id": event["id"] + "_twin"}
                events += [copy.deepcopy(each) for each in (event, twin) for _ in range(COPIES)]
            dice.shuffle(events)
            await asyncio.gather(*(told(dice.choice((one, two)), event) for event in events))
            await asyncio.gather(*(g.billing.order(c.order_id) for c in checkouts for g in (one, two)))
            await until_fulfilled(shop, checkouts)
            for number, key in enumerate(keys):
                assert await one.available(key) == 100 * (number + 1)
            assert len(shop.told("order.fulfilled")) == ORDERS
        shop.audit()

    run(main())


def test_the_landing_page_alone_credits(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            assert (await gateway.billing.order(checkout.order_id)).state == "open"
            shop.acts.pay(checkout.checkout_id)
            gateway.billing._looked.clear()
            order = await gateway.billing.order(checkout.order_id)
            assert order.state in {"paid", "fulfilled"}
            await gateway.settle()
            assert await gateway.available(key) == 100
        shop.audit()

    run(main())


def test_a_page_that_polls_does_not_have_stripe_asked_each_time_nor_waits_when_it_is_down(local_shop, run, monkeypatch):
    monkeypatch.setattr("gateway.billing.service.LOOK_WAIT_SECONDS", 0.2)

    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(timeout_seconds=3, retries=0) as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            for _ in range(20):
                await gateway.billing.order(checkout.order_id)
            assert shop.stripe.books.calls["checkout.sessions.retrieve"] == 1
            shop.stripe.faults.set(kind="silent")
            gateway.billing._looked.clear()
            asked = asyncio.get_running_loop().time()
            assert (await gateway.billing.order(checkout.order_id)).state == "open"
            assert asyncio.get_running_loop().time() - asked < 2.5, "it waited for Stripe"
            assert await gateway.billing.order("order_none") is None

    run(main())


def test_a_payment_that_takes_its_time_credits_when_it_has_succeeded(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            good, bad = await gateway.buy(key), await gateway.buy(key, 2)
            for checkout in (good, bad):
                shop.acts.pay_later(checkout.checkout_id)
            await deliver(shop, gateway)
            assert shop.states() == dict.fromkeys((good.order_id, bad.order_id), "awaiting_payment")
            assert await gateway.available(key) == 0
            shop.acts.finish(good.checkout_id)
            shop.acts.finish(bad.checkout_id, succeeded=False)
            await deliver(shop, gateway)
            assert shop.states() == {good.order_id: "fulfilled", bad.order_id: "failed"}
            assert await gateway.available(key) == 100
        shop.audit()

    run(main())


@pytest.mark.parametrize("percent_off", [100, 25])
def test_a_promotion_code_takes_nothing_from_the_credits(local_shop, run, percent_off):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            shop.acts.promotion_code("WELCOME", percent_off=percent_off)
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key, 2)
            session = shop.acts.pay(checkout.checkout_id, promotion_code="WELCOME")
            assert session["payment_status"] == ("no_payment_required" if percent_off == 100 else "paid")
            await deliver(shop, gateway)
            assert shop.states() == {checkout.order_id: "fulfilled"}
            assert await gateway.available(key) == 200
        shop.audit()

    run(main())


def test_an_expired_checkout_expires_its_order(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.expire(checkout.checkout_id)
            await deliver(shop, gateway)
            assert shop.states() == {checkout.order_id: "expired"}
            assert await gateway.available(key) == 0

    run(main())


ODD = {
    "a smaller amount": {"amount_subtotal": 999},
    "a larger amount": {"amount_subtotal": 1001},
    "no amount": {"amount_subtotal": None},
    "another currency": {"currency": "eur"},
    "another mode": {"mode": "setup"},
    "the other mode of money": {"livemode": True},
    "a payment status nobody knows": {"payment_status": "mostly_paid"},
    "a status nobody knows": {"status": "sort_of_complete"},
    "nothing to pay, of something": {"payment_status": "no_payment_required"},
    "another order in the metadata": {"metadata": {"order_id": "order_of_somebody"}},
    "no metadata": {"metadata": {}},
    "another order's reference": {"client_reference_id": "order_of_somebody"},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_a_checkout_that_is_not_as_we_made_it_is_reviewed_and_never_credited(local_shop, run, odd):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            shop.stripe.database.sessions.get(checkout.checkout_id).update(odd)
            for _ in range(2):
                await deliver(shop, gateway, again=True)
                await gateway.billing.reconcile(3)
                await gateway.billing.order(checkout.order_id)
            assert shop.states() == {checkout.order_id: "review"}
            assert await gateway.available(key) == 0
            (order,) = await gateway.desk.list_orders(is_all=False, limit=10)
            assert order.id == checkout.order_id
            assert next(iter(odd)).split("_")[0] in order.cause
        shop.audit()

    run(main())


TAMPERED = {"credits": "1000000", "quantity": "99", "pack": "large", "key_id": "key_other", "user_id": "user_2"}


@pytest.mark.parametrize("name", [*TAMPERED, "order_id"])
def test_tampered_metadata_credit_nothing_and_are_shown_to_a_person(local_shop, run, name):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            _, other = await gateway.buyer("user_2")
            checkout, honest = await gateway.buy(key), await gateway.buy(other)
            tampered = {**TAMPERED, "key_id": other.key_id, "order_id": honest.order_id}[name]
            shop.acts.pay(checkout.checkout_id)
            shop.stripe.database.sessions.get(checkout.checkout_id)["metadata"][name] = tampered
            await deliver(shop, gateway)
            await gateway.billing.reconcile(3)
            assert shop.states() == {checkout.order_id: "review", honest.order_id: "open"}
            assert [await gateway.available(either) for either in (key, other)] == [0, 0]
            (order,) = await gateway.desk.list_orders(is_all=False, limit=10)
            assert f"metadata.{name} is {tampered!r}" in order.cause
        shop.audit()

    run(main())


def test_a_merchants_own_metadata_do_not_matter(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            shop.stripe.database.sessions.get(checkout.checkout_id)["metadata"]["campaign"] = "spring"
            await deliver(shop, gateway)
            assert await gateway.available(key) == 100
        shop.audit()

    run(main())


def test_a_payment_that_belongs_to_another_order_is_reviewed(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            first, second = await gateway.buy(key), await gateway.buy(key)
            for checkout in (first, second):
                shop.acts.pay(checkout.checkout_id)
            sessions = shop.stripe.database.sessions
            await deliver(shop, gateway, only=first.checkout_id)
            sessions.get(second.checkout_id)["payment_intent"] = sessions.get(first.checkout_id)["payment_intent"]
            await deliver(shop, gateway, only=second.checkout_id)
            assert shop.states() == {first.order_id: "fulfilled", second.order_id: "review"}
            assert await gateway.available(key) == 100
        shop.audit()

    run(main())


@pytest.mark.parametrize(("word", "state", "credits"), [("fulfil", "fulfilled", 100), ("reject", "failed", 0)])
def test_a_persons_word_on_a_review_is_final(shop, run, word, state, credits):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            shop.stripe.database.sessions.get(checkout.checkout_id)["currency"] = "eur"
            await deliver(shop, gateway)
            await gateway.desk.resolve_order(checkout.order_id, word)
            await gateway.settle()
            shop.stripe.database.sessions.get(checkout.checkout_id)["currency"] = "usd"
            for _ in range(2):
                await deliver(shop, gateway, again=True)
                await gateway.billing.reconcile(3)
            assert shop.states() == {checkout.order_id: state}
            assert await gateway.available(key) == credits
            with pytest.raises(Conflict):
                await gateway.desk.resolve_order(checkout.order_id, word)
            assert await gateway.desk.list_orders(is_all=False, limit=10) == []
        shop.audit()

    run(main())


def test_a_paid_checkout_that_our_books_do_not_know_is_told_to_a_person_and_not_forgotten(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            lost = shop.rows("SELECT * FROM orders")[0]
            await write(gateway, "DELETE FROM orders")
            await deliver(shop, gateway)
            dead = await gateway.desk.list_dead(limit=10)
            assert {event.object_id for event in dead} >= {checkout.checkout_id}
            assert checkout.order_id in dead[0].cause
            assert (await gateway.billing.reconcile(3)).strays != []
            marks = ",".join("?" * len(lost))
            await gateway.database.transaction(
                lambda db: db.exec_driver_sql(f"INSERT INTO orders VALUES ({marks})", lost)
            )
            for event in dead:
                await gateway.desk.resolve_event(event.id, "retry")
            await gateway.work()
            assert await gateway.available(key) == 100
        shop.audit()

    run(main())


def test_somebody_elses_checkouts_on_the_same_account_are_left_alone(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            session = shop.stripe.database.sessions.get(checkout.checkout_id)
            session.update(client_reference_id="invoice-7", metadata={})
            await write(gateway, "DELETE FROM orders")
            await deliver(shop, gateway)
            report = await gateway.billing.reconcile(3)
            assert (report.strays, report.failures, report.changes) == ([], [], [])
            assert await gateway.desk.list_dead(limit=10) == []

    run(main())


def test_an_order_whose_key_is_gone_is_reviewed_instead_of_lost(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            await gateway.provider.revoke(key.key_id)
            await deliver(shop, gateway)
            (order,) = await gateway.desk.list_orders(is_all=False, limit=10)
            assert (order.state, "revoked" in order.cause) == ("review", True)
        shop.audit()

    run(main())


def test_a_grant_that_unkey_refuses_later_is_reviewed_and_may_be_given_again(tmp_path, run):
    async def main():
        shop = Shop(tmp_path / "gateway.db", "unkey")
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            balances = shop.ledger.server.database.balances
            balances.set(key.key_id, None)  # unlimited, behind our back
            await deliver(shop, gateway)
            assert shop.states() == {checkout.order_id: "review"}
            balances.set(key.key_id, 0)
            await gateway.desk.resolve_order(checkout.order_id, "fulfil")
            await gateway.settle()
            assert shop.states() == {checkout.order_id: "fulfilled"}
            assert await gateway.available(key) == 100
        shop.audit()

    run(main())


# Checkouts


def test_the_order_is_written_before_stripe_is_asked(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            _, key = await gateway.buyer()
            shop.stripe.faults.set(kind="closed", of="checkout.sessions.create")
            with pytest.raises(BillingUnavailable):
                await gateway.buy(key)
            assert list(shop.states().values()) == ["created"]

    run(main())


def test_a_lost_answer_leads_to_the_same_checkout_when_the_buyer_tries_again(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(retries=0) as gateway:
            _, key = await gateway.buyer()
            shop.stripe.faults.set(kind="closed", of="checkout.sessions.create", takes_effect=True, times=1)
            with pytest.raises(BillingUnavailable):
                await gateway.buy(key, attempt="a")
            checkouts = [await gateway.buy(key, attempt="a") for _ in range(2)]
            assert checkouts[0] == checkouts[1]
            assert [*shop.states()] == [checkouts[0].order_id]
            assert len(list(shop.stripe.database.sessions)) == 1

    run(main())


def test_a_checkout_whose_answer_was_lost_is_credited_all_the_same(shop, run):
    """Nobody has its page but a buyer whose browser was quicker than our answer; money decides."""

    async def main():
        async with shop.open(), shop.gateway(retries=0) as gateway:
            _, key = await gateway.buyer()
            shop.stripe.faults.set(kind="closed", of="checkout.sessions.create", takes_effect=True, times=1)
            with pytest.raises(BillingUnavailable):
                await gateway.buy(key)
            (session,) = shop.stripe.database.sessions
            shop.acts.pay(session["id"])
            await deliver(shop, gateway)
            assert list(shop.states().values()) == ["fulfilled"]
            assert await gateway.available(key) == 100
        shop.audit()

    run(main())


def test_clicks_at_once_with_one_idempotency_key_make_one_order(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as one, shop.gateway() as two:
            _, key = await one.buyer()
            checkouts = await asyncio.gather(*(g.buy(key, 2, attempt="a") for g in (one, two) for _ in range(5)))
            assert len(set(checkouts)) == 1
            for quantity, pack in ((3, "starter"), (2, "large")):
                with pytest.raises(Conflict):
                    await one.buy(key, quantity, pack, attempt="a")
            _, other = await one.buyer("user_2")
            assert (await one.buy(other, 2, attempt="a")).order_id != checkouts[0].order_id
            shop.acts.pay(checkouts[0].checkout_id)
            await deliver(shop, one)
            with pytest.raises(Conflict):
                await one.buy(key, 2, attempt="a")

    run(main())


@pytest.mark.parametrize("quantity", [0, -1, 101, 2**63, 1.5, "10", True, None])
def test_quantities_that_are_none_are_refused_by_name(local_shop, run, quantity):
    async def main():
        async with local_shop.open(), local_shop.gateway() as gateway:
            _, key = await gateway.buyer()
            with pytest.raises(Invalid) as caught:
                await gateway.buy(key, quantity)
            assert "quantity" in caught.value.members["errors"]
            with pytest.raises(Invalid) as caught:
                await gateway.buy(key, 1, "pack_of_lies")
            assert "pack" in caught.value.members["errors"]
            assert local_shop.states() == {}

    run(main())


def test_what_could_not_be_credited_is_not_sold(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            _, unlimited = await gateway.buyer(credits=None)
            _, revoked = await gateway.buyer()
            await gateway.provider.revoke(revoked.key_id)
            _, disabled = await gateway.buyer()
            await gateway.provider.enable(disabled.key_id, False)
            _, usable = await gateway.buyer()
            for key in (unlimited, revoked):
                with pytest.raises(Invalid) as caught:
                    await gateway.buy(key)
                assert "key_id" in caught.value.members["errors"]
            with pytest.raises(Conflict):
                await gateway.buy(disabled)
            for user_id, key_id in (("user_2", usable.key_id), ("user_1", "key_none")):
                with pytest.raises(Invalid):
                    await gateway.billing.checkout(
                        user_id=user_id, key_id=key_id, pack="starter", quantity=1, attempt=None
                    )
            assert shop.states() == {}

    run(main())


def test_what_stripe_refuses_fails_and_says_why_only_to_us(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            shop.stripe.faults.set(kind="error", of="checkout.sessions.create", status=400)
            with pytest.raises(BillingUnavailable) as caught:
                await gateway.buy(key)
            assert "Stripe" in caught.value.cause
            assert "Stripe" not in f"{caught.value.problem('r')}"
            assert list(shop.states().values()) == ["failed"]

    run(main())


def test_a_user_is_one_customer_also_after_it_was_deleted_at_stripe(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway(reuse_customers=True) as gateway:
            _, key = await gateway.buyer()
            first, second = await gateway.buy(key), await gateway.buy(key)
            sessions = shop.stripe.database.sessions
            customers = [sessions.get(checkout.checkout_id)["customer"] for checkout in (first, second)]
            assert customers[0] == customers[1] != None  # noqa: E711
            await write(gateway, "UPDATE accounts SET customer_id = 'cus_deleted'")
            with pytest.raises(BillingUnavailable):
                await gateway.buy(key)
            third = await gateway.buy(key)
            assert sessions.get(third.checkout_id)["customer"] not in {*customers, None}

    run(main())


def test_what_is_asked_of_stripe_is_ours_to_say(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key, 3)
            (asked,) = [one for one in shop.stripe.books.requests if one.call == "checkout.sessions.create"]
            assert asked.asked.idempotency_key == checkout.order_id
            sent = asked.parameters
            item = sent["line_items"][0] if isinstance(sent["line_items"], list) else sent["line_items"]["0"]
            assert (item["quantity"], item["price_data"]["unit_amount"]) == ("3", "1000")
            assert sent["client_reference_id"] == checkout.order_id
            assert sent["metadata"]["order_id"] == sent["payment_intent_data"]["metadata"]["order_id"]
            done = f"https://shop.example/done?order_id={checkout.order_id}&session_id={{CHECKOUT_SESSION_ID}}"
            assert sent["success_url"] == done
            assert sent["cancel_url"] == f"https://shop.example/back?x=1&order_id={checkout.order_id}"

    run(main())


async def deliver(shop: Shop, gateway: Gateway, *, only: str | None = None, again: bool = False) -> None:
    """Everything that Stripe has to tell, in some order, and then the work it makes."""
    for event in shop.events():
        if only is None or event["data"]["object"]["id"] == only:
            suffix = f"_again{random.randrange(10**9)}" if again else ""
            await gateway.receive({**event, "id": event["id"] + suffix})
    await gateway.work()


async def told(gateway: Gateway, event) -> None:
    """As Stripe tells it: what was not taken is sent again."""
    while True:
        try:
            return await gateway.receive(event)
        except BillingUnavailable:
            await asyncio.sleep(0.1)


async def until_fulfilled(shop: Shop, checkouts) -> None:
    for _ in range(1000):
        if all(shop.states()[checkout.order_id] == "fulfilled" for checkout in checkouts):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(shop.states())


async def write(gateway: Gateway, statement: str) -> None:
    await gateway.database.transaction(lambda db: db.exec_driver_sql(statement))
