"""What the README promises a newcomer: one command, a key, a persona for 5 credits, and more credits to buy."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from tests.e2e.dev import gateway_dev
from tests.e2e.harness import until


def test_gateway_dev_prints_a_key_and_a_call_that_works(tmp_path):
    with gateway_dev(tmp_path) as dev:
        call, _ = dev.lines
        assert urlsplit(call.url).path == "/v1/personas"
        assert f"Authorization: Bearer {dev.key}" in call.arguments
        answer = call.paste()
        assert answer.status_code == 200
        assert answer.headers["X-Credits-Cost"] == "5"
        assert answer.headers["X-Credits-Remaining"] == "95"
        assert answer.json()
        assert [call.paste().status_code for _ in range(19)] == [200] * 19
        refused = call.paste()
        assert (refused.status_code, refused.json()["checkout"]) == (402, "/checkout")
        assert (tmp_path / "data" / "gateway.db").exists()
        assert dev.stop() == 0


def test_gateway_dev_prints_a_call_that_buys_credits(tmp_path):
    with gateway_dev(tmp_path) as dev:
        _, purchase = dev.lines
        answer = purchase.paste()
        assert answer.status_code == 201
        order = answer.json()
        assert order["url"].startswith(dev.address("stripe"))
        form = {"email": "ada@b.example", "method": "card", "action": "pay"}
        paid = httpx.post(order["url"], data=form, trust_env=False)
        back = httpx.get(paid.headers["location"], trust_env=False)
        assert (paid.status_code, back.status_code) == (303, 200)
        until(lambda: dev.ask(f"/orders/{order['order_id']}")["state"] == "fulfilled")
        assert dev.ask("/credits")["available"] == 200
        newest = dev.ask("/credits/transactions")["transactions"][0]
        assert (newest["kind"], newest["amount"], newest["balance_after"]) == ("purchase", 100, 200)
        assert dev.stop() == 0
