"""Stripe's SDK at the border: what is asked, how often, and that its errors stay behind."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import time
from pathlib import Path

import pytest
import stripe
import stripe._error

from gateway.billing import stripe_api
from gateway.billing.stripe_api import StripeApi, StripeRefused
from gateway.errors import BillingUnavailable, Conflict, GatewayError
from gateway.sandbox.stripe.server import API_KEY

ROOT = Path(__file__).parents[2]


def api(shop, **changed) -> StripeApi:
    settings = {"base_url": shop.stripe.url, "timeout_seconds": 5, "retries": 0}
    return StripeApi(API_KEY, **{**settings, **changed})


def test_every_error_of_the_sdk_becomes_one_of_ours():
    """None is forgotten when the SDK grows."""
    kinds = {
        kind
        for kind in vars(stripe._error).values()
        if isinstance(kind, type) and issubclass(kind, stripe.StripeError) and kind is not stripe.StripeError
    }
    assert len(kinds) >= 10
    for kind in kinds:
        error = kind.__new__(kind)
        stripe.StripeError.__init__(error, "secret words", http_status=400)
        error.param = None
        translated = stripe_api._translate(error)
        assert isinstance(translated, BillingUnavailable | Conflict), kind
        assert "secret words" not in json.dumps(translated.problem("r"))


@pytest.mark.parametrize(
    ("status", "kind"), [(400, StripeRefused), (401, BillingUnavailable), (403, BillingUnavailable)]
)
def test_what_stripe_refuses_is_told_from_what_it_can_not_do_now(local_shop, run, status, kind):
    async def main():
        async with local_shop.open():
            client = api(local_shop)
            local_shop.stripe.faults.set(kind="error", status=status)
            with pytest.raises(kind) as caught:
                await client.create_customer("u", "k")
            assert (type(caught.value) is kind) == (status != 400 or kind is StripeRefused)
            await client.aclose()

    run(main())


def test_what_is_not_there_is_none(local_shop, run):
    async def main():
        async with local_shop.open():
            client = api(local_shop)
            assert await client.find_checkout("cs_test_none") is None
            assert await client.find_payment("pi_none") is None
            assert await client.find_checkout_of("pi_none") is None
            await client.aclose()

    run(main())


@pytest.mark.parametrize("kind", ["error", "reset", "closed", "limited"])
@pytest.mark.parametrize("retries", [0, 2])
def test_a_request_is_tried_as_often_as_the_config_says_with_one_idempotency_key(local_shop, run, kind, retries):
    async def main():
        shop = local_shop
        async with shop.open():
            client = api(shop, retries=retries)
            shop.stripe.faults.set(kind=kind, status=503)
            with pytest.raises(BillingUnavailable):
                await client.create_customer("u", "the_key")
            requests = [one for one in shop.stripe.books.requests if one.call == "customers.create"]
            assert len(requests) == (1 if kind == "limited" else 1 + retries)
            assert {one.asked.idempotency_key for one in requests} == {"the_key"}
            await client.aclose()

    run(main())


def test_a_stripe_that_says_nothing_is_waited_for_no_longer_than_the_config_says(local_shop, run):
    async def main():
        async with local_shop.open():
            client = api(local_shop, timeout_seconds=0.3)
            local_shop.stripe.faults.set(kind="silent")
            asked = time.monotonic()
            with pytest.raises(BillingUnavailable):
                await client.find_checkout("cs_test_1")
            assert 0.2 < time.monotonic() - asked < 15
            await client.aclose()

    run(main())


def test_callers_who_leave_do_not_wear_the_connections_out(local_shop, run):
    """httpx's pool does not survive requests that are cancelled, so none is."""

    async def main():
        shop = local_shop
        async with shop.open():
            client = api(shop)
            shop.stripe.faults.set(kind="slow", seconds=0.05)
            for _ in range(20):
                left = [asyncio.create_task(client.find_checkout("cs_test_none")) for _ in range(10)]
                await asyncio.sleep(0.003)
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
            assert await client.find_checkout("cs_test_none") is None
            await client.aclose()
            assert client._running == set()

    run(main())


def test_nothing_is_told_to_stripe_about_us(local_shop, run):
    async def main():
        shop = local_shop
        async with shop.open():
            client = api(shop)
            seen = []
            shop.stripe.books.receive, receive = (
                lambda call, asked: (seen.append(asked), receive(call, asked))[1],
                shop.stripe.books.receive,
            )
            for _ in range(2):
                await client.find_checkout("cs_test_none")
            assert not stripe.enable_telemetry
            assert len(seen) == 2
            assert "telemetry" not in f"{seen}".lower()
            await client.aclose()

    run(main())


def test_lists_are_read_to_their_end(local_shop, run, monkeypatch):
    async def main():
        shop = local_shop
        monkeypatch.setattr(stripe_api, "PAGE", 3)
        async with shop.open(), shop.gateway() as gateway:
            _, key = await gateway.buyer()
            for _ in range(7):
                checkout = await gateway.buy(key)
                shop.acts.pay(checkout.checkout_id)
            for _ in range(8):
                shop.acts.refund(checkout.checkout_id, 10)
            client = gateway.billing._stripe
            pages = [len(page) async for page in client.list_checkouts(0)]
            assert (sum(pages), max(pages)) == (7, 3)
            refunded = [payment async for payment in client.list_refunded(0)]
            assert (len(refunded), len(set(refunded))) == (8, 1)
            payment = await client.find_payment(refunded[0])
            assert (payment.amount, payment.returned) == (1000, 80)

    run(main())


def test_a_key_that_stripe_does_not_know_is_in_no_message(local_shop, run, caplog):
    async def main():
        async with local_shop.open():
            client = StripeApi("sk_live_verysecret", base_url=local_shop.stripe.url, timeout_seconds=5, retries=0)
            with pytest.raises(GatewayError) as caught:
                await client.find_checkout("cs_1")
            assert "verysecret" not in f"{caught.value.cause}{caught.value.problem('r')}{caplog.text}"
            await client.aclose()

    run(main())


def test_all_that_is_asked_of_stripe_is_where_mypy_looks():
    """A wrong parameter fails `make check` wherever one is added: what goes to the SDK is typed by the SDK, and no call
    of it is exempt. That mypy then finds it is shown by wrong_for_stripe.py."""
    source = ROOT.joinpath("gateway/billing/stripe_api.py").read_text()
    tree, lines = ast.parse(source), source.splitlines()
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("_async")
    ]
    asking = [call for call in calls if not ast.unparse(call.func).endswith("close_async")]
    assert len(asking) == 8
    for call in asking:
        assert not call.keywords
        assert [name for name in map(ast.unparse, call.args) if name.startswith("asked")] == ["asked"]
        assert "type: ignore" not in "".join(lines[call.lineno - 1 : call.end_lineno])
    declared = {
        ast.unparse(node.annotation)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign | ast.arg) and getattr(node, "arg", ast.unparse(node)).startswith("asked")
    }
    assert {getattr(stripe_api, name).__module__.partition(".")[0] for name in declared} == {"stripe"}
    untyped = [line for line in lines if re.match(r"\s+asked = ", line) and "checkout_params(" not in line]
    assert untyped == []
    assert inspect.signature(stripe_api.checkout_params).return_annotation in declared
