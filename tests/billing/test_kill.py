"""kill -9 at every step of fulfilment: credited exactly once (I5), whoever takes over."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
from typing import Any

import pytest
from stripe import WebhookSignature

from gateway.sandbox.unkey.server import API_ID, ROOT_KEY
from tests.billing.harness import SECRET, TORTURE, Shop
from tests.billing.mortal import LIVENESS, Life, live

DEATHS = 200 if TORTURE else 6
SECONDS_TO_LIVE = 30


async def spawned(life: Life) -> int:
    """Let a process live, or die; its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.billing.mortal"])
    process = context.Process(target=live, args=(life,))
    process.start()
    for _ in range(SECONDS_TO_LIVE * 100):
        if not process.is_alive():
            break
        await asyncio.sleep(0.01)
    exit_code = process.exitcode
    assert exit_code is not None, "it neither lives nor dies"
    process.close()
    return exit_code


async def until_settled(shop: Shop, gateway, checkout) -> None:
    """As a survivor does, in time: leases end, Stripe sends again what nobody took, what is in doubt is looked at."""
    for event in events_of(shop, checkout):
        await gateway.receive(event)
    for _ in range(200):
        await gateway.database.transaction(lambda db: db.exec_driver_sql("UPDATE stripe_events SET due_at = 0"))
        await gateway.billing._inbox._work()
        await gateway.billing._follow_up._work()
        if all(state == "fulfilled" for state in shop.states().values()):
            return
        await asyncio.sleep(0.05)


@pytest.mark.timeout(3600 if TORTURE else 300)
def test_killed_at_any_step_of_fulfilment_the_order_is_credited_once(shop, run, tmp_path):
    async def main():
        steps_file = tmp_path / "steps"
        is_unkey = hasattr(shop.ledger, "server")
        settings = {"resolve_seconds": 0.2} if is_unkey else {}
        if is_unkey:
            await shop.ledger._start()
        async with shop.open():
            steps, number = 0, 0
            while number <= DEATHS:
                async with shop.gateway() as gateway:
                    _, key = await gateway.buyer(f"user_{number}")
                    checkout = await gateway.buy(key)
                shop.acts.pay(checkout.checkout_id)
                dies_at = 0 if number == 0 else pick(number, steps)
                exit_code = await spawned(life_of(shop, checkout, dies_at, steps_file))
                if number == 0:
                    assert exit_code == 0
                    steps = int(steps_file.read_text())
                    assert steps >= 10
                else:
                    assert exit_code in {0, -signal.SIGKILL}
                async with shop.gateway(keeper={**LIVENESS, **settings}) as survivor:
                    await until_settled(shop, survivor, checkout)
                    assert await survivor.available(key) == 100, f"died at step {dies_at} of {steps}"
                    assert shop.states()[checkout.order_id] == "fulfilled"
                if number % 10 == 0:
                    shop.audit()
                number += 1
        if is_unkey:
            await shop.ledger._stop()

    run(main())


def events_of(shop: Shop, checkout) -> list[dict[str, Any]]:
    events = shop.events("checkout.session.completed")
    return [event for event in events if event["data"]["object"]["id"] == checkout.checkout_id]


def pick(number: int, steps: int) -> int:
    """Spread over all steps, where there are fewer deaths than steps; else each in turn."""
    return 1 + (number - 1) * max(1, steps // DEATHS) % steps


def life_of(shop: Shop, checkout, dies_at: int, steps_file) -> Life:
    bodies = [json.dumps(event).encode() for event in events_of(shop, checkout)]
    unkey = None
    if hasattr(shop.ledger, "server"):
        unkey = {"api_id": API_ID, "root_key": ROOT_KEY, "base_url": shop.ledger.server.url}
    return Life(
        shop.ledger.url,
        shop.settings(),
        unkey,
        tuple((body, WebhookSignature.generate_signature_header(body.decode(), SECRET)) for body in bodies),
        dies_at,
        str(steps_file),
    )
