"""Money that goes back takes its credits along (I6): in proportion, once, never below 0, the rest is owed."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.billing.payments import Payment
from gateway.billing.refunds import clawed_target
from gateway.errors import Conflict, GatewayError, KeyDisabled
from gateway.sandbox.stripe.answers import Refusal
from tests.billing.harness import TORTURE, Gateway, Shop

EXAMPLES = 400 if TORTURE else 6


async def sold(shop: Shop, gateway: Gateway, quantity: int = 1, user_id: str = "user_1"):
    """A key that has bought so many packs of 100 credits for 1000 cents: its secret, itself, the checkout."""
    secret, key = await gateway.buyer(user_id)
    checkout = await buy_again(shop, gateway, key, quantity)
    return secret, key, checkout


async def buy_again(shop: Shop, gateway: Gateway, key, quantity: int = 1):
    checkout = await gateway.buy(key, quantity)
    shop.acts.pay(checkout.checkout_id)
    await deliver(shop, gateway)
    return checkout


async def deliver(shop: Shop, gateway: Gateway) -> None:
    for event in shop.events():
        await gateway.receive(event)
    await gateway.work()


async def spend(gateway: Gateway, secret: str, credits: int) -> None:
    hold = await gateway.provider.hold(secret.encode(), credits, "/x", f"r{random.random()}")
    await gateway.provider.settle(hold, credits)


def clawed(shop: Shop, checkout) -> int:
    return shop.rows("SELECT clawed FROM orders WHERE id = ?", checkout.order_id)[0][0]


def test_a_refund_in_two_parts_then_a_dispute_won_then_one_lost(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            secret, key, checkout = await sold(shop, gateway, 3)
            steps = [(500, 50), (1, 51)]  # 1 cent of 3000 is a tenth of a credit, which is a credit
            for cents, expected in steps:
                shop.acts.refund(checkout.checkout_id, cents)
                await deliver(shop, gateway)
                assert clawed(shop, checkout) == expected
                assert await gateway.available(key) == 300 - expected
                shop.audit()
            dispute = shop.acts.dispute(checkout.checkout_id)
            await deliver(shop, gateway)
            assert clawed(shop, checkout) == 300
            assert await gateway.available(key) == 0
            with pytest.raises(KeyDisabled):
                await gateway.provider.hold(secret.encode(), 1, "/x", "frozen")
            shop.audit()
            shop.acts.close_dispute(dispute["id"], "won")
            await deliver(shop, gateway)
            assert clawed(shop, checkout) == 51
            assert await gateway.available(key) == 249
            await spend(gateway, secret, 200)
            other = await buy_again(shop, gateway, key, 3)
            await spend(gateway, secret, 200)
            dispute = shop.acts.dispute(other.checkout_id)
            await deliver(shop, gateway)
            assert (await gateway.available(key), shop.debt()) == (0, 151)
            shop.acts.close_dispute(dispute["id"], "lost")
            await deliver(shop, gateway)
            assert (clawed(shop, checkout), clawed(shop, other)) == (51, 300)
            assert (await gateway.available(key), shop.debt()) == (0, 151)
        shop.audit()

    run(main())


def test_what_was_spent_already_is_owed_and_the_next_purchase_pays_it(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            secret, key, checkout = await sold(shop, gateway, 2)
            await spend(gateway, secret, 150)
            shop.acts.refund(checkout.checkout_id)
            await deliver(shop, gateway)
            assert (await gateway.available(key), shop.debt()) == (0, 150)
            shop.audit()
            first = await buy_again(shop, gateway, key)
            assert (await gateway.available(key), shop.debt()) == (0, 50)
            shop.audit()
            await buy_again(shop, gateway, key)
            assert (await gateway.available(key), shop.debt()) == (50, 0)
            shop.audit()
            shop.acts.refund(first.checkout_id)  # whose credits paid a debt: what was paid is owed again
            await deliver(shop, gateway)
            assert (await gateway.available(key), shop.debt()) == (0, 50)
        shop.audit()

    run(main())


def test_debt_is_the_users_whichever_key_he_buys_for(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            secret, _, checkout = await sold(shop, gateway)
            await spend(gateway, secret, 80)
            shop.acts.refund(checkout.checkout_id)
            await deliver(shop, gateway)
            _, other = await gateway.buyer("user_1")
            _, strangers = await gateway.buyer("user_2")
            for key in (other, strangers):
                await buy_again(shop, gateway, key)
            assert (await gateway.available(other), await gateway.available(strangers)) == (20, 100)
        shop.audit()

    run(main())


def test_a_won_dispute_pays_what_is_owed_before_it_gives_back(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            secret, key, checkout = await sold(shop, gateway)
            await spend(gateway, secret, 30)
            dispute = shop.acts.dispute(checkout.checkout_id)
            await deliver(shop, gateway)
            assert (await gateway.available(key), shop.debt()) == (0, 30)
            shop.acts.close_dispute(dispute["id"], "won")
            await deliver(shop, gateway)
            assert (await gateway.available(key), shop.debt()) == (70, 0)
            assert [told["taken"] for told in shop.told("order.clawed_back")] == [100]
            assert [told["given"] for told in shop.told("order.reinstated")] == [100]
        shop.audit()

    run(main())


def test_a_refund_that_fails_gives_the_credits_back(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key, checkout = await sold(shop, gateway)
            refund = shop.acts.refund(checkout.checkout_id, 400, status="pending")
            await deliver(shop, gateway)
            assert await gateway.available(key) == 60
            shop.acts.finish_refund(refund["id"], "failed")
            await deliver(shop, gateway)
            assert await gateway.available(key) == 100
        shop.audit()

    run(main())


def test_an_inquiry_moves_nothing_until_it_becomes_a_dispute(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            secret, key, checkout = await sold(shop, gateway)
            dispute = shop.acts.dispute(checkout.checkout_id, inquiry=True)
            await deliver(shop, gateway)
            assert await gateway.available(key) == 100
            await spend(gateway, secret, 1)
            shop.acts.escalate(dispute["id"])
            await deliver(shop, gateway)
            assert (await gateway.available(key), shop.debt()) == (0, 1)
        shop.audit()

    run(main())


def test_a_key_is_frozen_while_the_bank_decides_and_nothing_is_sold_to_its_user(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            secret, key, checkout = await sold(shop, gateway)
            dispute = shop.acts.dispute(checkout.checkout_id, 100)
            await deliver(shop, gateway)
            assert not (await gateway.provider.get(key.key_id)).enabled
            _, other = await gateway.buyer("user_1")
            for each in (key, other):
                with pytest.raises(Conflict):
                    await gateway.buy(each)
            shop.acts.close_dispute(dispute["id"], "won")
            await deliver(shop, gateway)
            await spend(gateway, secret, 100)
            await gateway.buy(other)
        shop.audit()

    run(main())


def test_a_lost_dispute_keeps_the_key_frozen_until_a_person_says_otherwise(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            secret, key, checkout = await sold(shop, gateway)
            dispute = shop.acts.dispute(checkout.checkout_id)
            await deliver(shop, gateway)
            with pytest.raises(Conflict):
                await gateway.desk.resolve_order(checkout.order_id, "unfreeze")
            shop.acts.close_dispute(dispute["id"], "lost")
            await deliver(shop, gateway)
            assert not (await gateway.provider.get(key.key_id)).enabled
            await gateway.desk.resolve_order(checkout.order_id, "unfreeze")
            for _ in range(2):
                await gateway.work()
                await gateway.billing.reconcile(3)
            assert (await gateway.provider.get(key.key_id)).enabled
            await buy_again(shop, gateway, key)
            await spend(gateway, secret, 100)
        shop.audit()

    run(main())


def test_of_two_disputed_orders_of_a_key_the_last_one_decides(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key, first = await sold(shop, gateway)
            second = await buy_again(shop, gateway, key)
            disputes = [shop.acts.dispute(checkout.checkout_id) for checkout in (first, second)]
            for dispute, is_enabled in zip(disputes, (False, True), strict=True):
                await deliver(shop, gateway)
                shop.acts.close_dispute(dispute["id"], "won")
                await deliver(shop, gateway)
                assert (await gateway.provider.get(key.key_id)).enabled is is_enabled
            assert await gateway.available(key) == 200
        shop.audit()

    run(main())


def test_a_key_is_frozen_in_the_end_though_its_keeper_was_away_and_its_process_died(tmp_path, run):
    async def main():
        shop = Shop(tmp_path / "gateway.db", "unkey")
        async with shop.open(), shop.gateway() as survivor:
            async with shop.gateway() as gateway:
                _, key, checkout = await sold(shop, gateway)
                shop.ledger.fail("error", "updateKey", times=1)
                shop.acts.dispute(checkout.checkout_id)
                for event in shop.events():
                    await gateway.receive(event)
                await gateway.billing._inbox._work()
            await survivor.settle()
            assert shop.rows("SELECT freeze_wanted, frozen FROM orders") == [(1, 1)]
            assert not (await survivor.provider.get(key.key_id)).enabled

    run(main())


def test_refunds_that_are_told_before_the_sale_are_taken_from_it(shop, run):
    async def main():
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.acts.pay(checkout.checkout_id)
            shop.acts.refund(checkout.checkout_id, 300)
            for event in reversed(shop.events()):
                await gateway.receive(event)
                await gateway.work()
                assert await gateway.available(key) in {0, 70}
            assert await gateway.available(key) == 70
        shop.audit()

    run(main())


@pytest.mark.parametrize("becomes", ["given", "refused", "given by a person"])
def test_what_is_refunded_before_its_credits_have_arrived_is_clawed_then_and_owed_by_nobody_if_they_never_do(
    tmp_path, run, becomes
):
    async def main():
        shop = Shop(tmp_path / "gateway.db", "unkey")
        balances, faults = shop.ledger.server.database.balances, shop.ledger.server.faults
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            _, other = await gateway.buyer()
            checkout = await gateway.buy(key)
            shop.ledger.fail("error", "getKey", status=500)
            shop.acts.pay(checkout.checkout_id)
            for cents in (300, 100):
                shop.acts.refund(checkout.checkout_id, cents)
                for event in shop.events():
                    await gateway.receive(event)
                await gateway.billing._inbox._work()
            assert shop.states() == {checkout.order_id: "paid"}
            shop.audit()
            if becomes != "given":
                balances.set(key.key_id, None)  # unlimited, behind our back
            faults.clear()
            await gateway.settle()
            shop.audit()
            if becomes != "given":
                assert (shop.states(), shop.debt()) == ({checkout.order_id: "review"}, 0)
                balances.set(key.key_id, 0)
                word = "reject" if becomes == "refused" else "fulfil"
                await gateway.desk.resolve_order(checkout.order_id, word)
                await gateway.settle()
                shop.audit()
            assert await gateway.available(key) == (0 if becomes == "refused" else 60)
            await buy_again(shop, gateway, other)
            assert (await gateway.available(other), shop.debt()) == (100, 0)
        shop.audit()

    run(main())


def test_refunds_of_what_we_did_not_sell_are_left_alone(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, _, checkout = await sold(shop, gateway)
            await gateway.database.transaction(lambda db: db.exec_driver_sql("DELETE FROM orders"))
            shop.stripe.database.sessions.get(checkout.checkout_id).update(client_reference_id=None, metadata={})
            shop.acts.refund(checkout.checkout_id)
            await deliver(shop, gateway)
            assert set(shop.rows("SELECT state FROM stripe_events")) <= {("done",), ("ignored",)}

    run(main())


def test_what_was_learnt_late_does_not_overrule_what_was_learnt_last(local_shop, run):
    """Two look at once; the one whose answer is older is the last to write."""

    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as slow, shop.gateway() as quick:
            _, key, checkout = await sold(shop, slow)
            payment_id = shop.stripe.database.sessions.get(checkout.checkout_id)["payment_intent"]
            dispute = shop.acts.dispute(checkout.checkout_id)
            find, asked, go = slow.billing._stripe.find_payment, asyncio.Event(), asyncio.Event()

            async def find_late(payment):
                found = await find(payment)
                asked.set()
                await go.wait()
                return found

            slow.billing._stripe.find_payment = find_late
            refunds = slow.billing._reconciler._refunds
            looking = asyncio.create_task(refunds.look(payment_id))
            await asked.wait()
            shop.acts.close_dispute(dispute["id"], "won")
            await quick.billing._reconciler._refunds.look(payment_id)
            go.set()
            await looking
            assert (clawed(shop, checkout), await quick.available(key)) == (0, 100)
        shop.audit()

    run(main())


def test_a_key_that_its_keeper_refuses_to_freeze_keeps_neither_refunds_nor_other_keys_waiting(
    local_shop, run, monkeypatch
):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            (_, bad, first), (_, good, second) = [await sold(shop, gateway, 1, f"user_{number}") for number in range(2)]
            enable = gateway.provider.enable

            async def refuse_one(key_id, enabled):
                if key_id == bad.key_id:
                    raise Conflict("Not this one.")
                return await enable(key_id, enabled)

            monkeypatch.setattr(gateway.provider, "enable", refuse_one)
            for checkout in (first, second):
                shop.acts.dispute(checkout.checkout_id)
            await deliver(shop, gateway)
            assert set(shop.rows("SELECT state FROM stripe_events")) <= {("done",), ("ignored",)}
            assert (clawed(shop, first), clawed(shop, second)) == (100, 100)
            assert not (await gateway.provider.get(good.key_id)).enabled
            monkeypatch.undo()
            await gateway.settle()
            assert not (await gateway.provider.get(bad.key_id)).enabled
        shop.audit()

    run(main())


def test_what_can_not_be_given_back_is_a_persons_business(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open(), shop.gateway() as gateway:
            _, key, checkout = await sold(shop, gateway)
            dispute = shop.acts.dispute(checkout.checkout_id)
            await deliver(shop, gateway)
            await gateway.provider.revoke(key.key_id)
            shop.acts.close_dispute(dispute["id"], "won")
            await deliver(shop, gateway)
            (order,) = await gateway.desk.list_orders(is_all=False, limit=10)
            assert (order.id, "100 credits" in order.cause) == (checkout.order_id, True)
            await gateway.desk.resolve_order(checkout.order_id, "done")
            assert await gateway.desk.list_orders(is_all=False, limit=10) == []

    run(main())


def test_what_unkey_refuses_to_take_back_later_is_a_persons_business(tmp_path, run):
    async def main():
        shop = Shop(tmp_path / "gateway.db", "unkey")
        async with shop.open(), shop.gateway() as gateway:
            _, key, checkout = await sold(shop, gateway)
            dispute = shop.acts.dispute(checkout.checkout_id)
            await deliver(shop, gateway)
            shop.audit()
            shop.ledger.server.database.balances.set(key.key_id, None)  # unlimited, behind our back
            shop.acts.close_dispute(dispute["id"], "won")
            await deliver(shop, gateway)
            (order,) = await gateway.desk.list_orders(is_all=False, limit=10)
            assert (order.id, "given back" in order.cause) == (checkout.order_id, True)

    run(main())


@given(
    st.integers(1, 10**9),
    st.integers(0, 10**8),
    st.integers(0, 10**8),
)
def test_the_share_that_goes_back_is_rounded_up_and_never_more_than_all(bought, amount, returned):
    target = clawed_target(bought, Payment("pi_1", amount, min(returned, amount), is_disputed=False, is_lost=False))
    assert 0 <= target <= bought
    if amount:
        share = min(returned, amount)
        assert (target - 1) * amount < bought * share <= target * amount


ACTS = st.one_of(
    st.tuples(st.just("refund"), st.integers(1, 1200), st.sampled_from(["succeeded", "pending"])),
    st.tuples(st.just("finish_refund"), st.integers(0, 3), st.sampled_from(["succeeded", "failed", "canceled"])),
    st.tuples(st.just("dispute"), st.integers(1, 3000), st.booleans()),
    st.tuples(st.just("close"), st.integers(0, 3), st.sampled_from(["won", "lost"])),
    st.tuples(st.just("spend"), st.integers(1, 120), st.none()),
    st.tuples(st.just("buy"), st.integers(1, 2), st.none()),
    st.tuples(st.just("tell"), st.integers(0, 2**32), st.booleans()),
)


@pytest.mark.timeout(3600 if TORTURE else 240)
@pytest.mark.parametrize("keeper", ["local", "unkey"])
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(acts=st.lists(ACTS, min_size=3, max_size=14), seed=st.integers(0, 2**32))
def test_refunds_and_disputes_in_any_order_told_in_any_order_and_often(run, tmp_path_factory, keeper, acts, seed):
    shop = Shop(tmp_path_factory.mktemp("shop") / "gateway.db", keeper)

    async def main():
        dice = random.Random(seed)
        async with shop.open(), shop.gateway() as one, shop.gateway() as two:
            secret, key, _ = await sold(shop, one, 3)
            for act in acts:
                await carry_out(shop, dice.choice((one, two)), dice, (secret, key), act)
            events = [event for event in shop.events() for _ in range(2)]
            dice.shuffle(events)
            for event in events:
                await dice.choice((one, two)).receive(event)
            await asyncio.gather(one.work(), two.work())
            shop.audit()
            check_clawed(shop)
            await one.billing.reconcile(3)
            shop.audit()
            check_clawed(shop)

    run(main())


async def carry_out(shop: Shop, gateway: Gateway, dice, sale, act) -> None:
    secret, key = sale
    what, number, how = act
    checkout_id = dice.choice([session["id"] for session in shop.stripe.database.sessions])
    acts, database = shop.acts, shop.stripe.database
    try:
        if what == "refund":
            acts.refund(checkout_id, number, status=how)
        elif what == "finish_refund":
            acts.finish_refund([*database.refunds][number]["id"], how)
        elif what == "dispute":
            acts.dispute(checkout_id, number, inquiry=how)
        elif what == "close":
            dispute = [*database.disputes][number]
            acts.close_dispute(dispute["id"], "warning_closed" if dispute["status"].startswith("warning") else how)
        elif what == "spend":
            await spend(gateway, secret, number)
        elif what == "buy":
            acts.pay((await gateway.buy(key, number)).checkout_id)
        else:
            events = shop.events()
            dice.shuffle(events)
            for event in events[: 1 + number % 5]:
                await gateway.receive({**event, "id": f"{event['id']}{number}"} if how else event)
            await gateway.work()
    except (Refusal, GatewayError, IndexError):
        pass  # not possible just now
    assert await gateway.available(key) >= 0


def check_clawed(shop: Shop) -> None:
    """Of every order what Stripe's own books say, and no more."""
    sales = {sale["session"]: sale for sale in shop.stripe.books.sales()}
    for checkout_id, bought, taken in shop.rows(
        "SELECT checkout_id, credits, clawed FROM orders WHERE state != 'open'"
    ):
        sale = sales[checkout_id]
        returned = min(sale["refunded"] + sale["disputed"], sale["paid"])
        assert taken == -(-bought * returned // sale["paid"]), sale
