"""The stand-in for Stripe as a process: its line, its control paths, its books."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
import stripe

from gateway.sandbox.stripe.settings import Settings
from tests import preloaded
from tests.sandbox.stripe_caller import session_params, tell

STOP_SECONDS = 10


@pytest.fixture
def start():
    """Starts a process with these arguments and gives it with the URL that it tells."""
    running = []

    def run(*arguments):
        command = [sys.executable, "-m", "gateway.sandbox.stripe", "--port", "0", *arguments]
        process = preloaded.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        line = process.stdout.readline()
        return process, re.fullmatch(r"stripe sandbox on (http://127\.0\.0\.1:\d+)\n", line)[1]

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def control(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"{url}/_sandbox/{path}", data) as response:
        return json.load(response)


def test_the_process_says_where_it_listens_sells_and_ends_when_told(start):
    process, url = start("--promotion-code", "FREE", "--pay-later-seconds", "7")
    client = stripe.StripeClient("sk_test_x", base_addresses={"api": url})
    made = client.v1.checkout.sessions.create(session_params(allow_promotion_codes=True))
    assert made.url.startswith(url)
    control(url, "acts/pay", {"session": made.id, "promotion_code": "FREE"})
    assert client.v1.checkout.sessions.retrieve(made.id).payment_status == "no_payment_required"
    assert control(url, "settings") == {**Settings().document(), "pay_later_seconds": 7}
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) == 0


def test_buyers_banks_and_the_clock_act_over_http():
    async def story(caller):
        made = await caller.create(idempotency_key="order_1")
        await caller.control("POST", "acts/pay_later", {"session": made.id, "succeeds": True})
        await caller.control("POST", "clock", {"advance_seconds": 5})
        refund = await caller.control("POST", "acts/refund", {"payment": made.id, "amount": 100})
        dispute = await caller.control("POST", "acts/dispute", {"payment": made.id, "amount": 50})
        await caller.control("POST", "acts/close_dispute", {"dispute": dispute["id"], "outcome": "lost"})
        books = await caller.control("GET", "books")
        (sale,) = books["sales"]
        assert (sale["payment_status"], sale["paid"], sale["refunded"], sale["disputed"]) == ("paid", 300, 100, 50)
        assert refund["status"] == "succeeded"
        assert books["calls"] == {"checkout.sessions.create": 1}
        assert books["events"]["charge.dispute.closed"] == 1
        (request,) = await caller.control("GET", "requests")
        assert request["parameters"]["client_reference_id"] == "o1"
        assert request["idempotency_key"] == "order_1"
        assert "sk_test" not in json.dumps([books, request])

    tell(story)


def test_switches_are_set_seen_and_removed_over_http():
    async def story(caller):
        for path, kind in (("faults", "error"), ("webhooks", "hold")):
            shown = await caller.control("POST", path, [{"kind": kind, "times": 2}, {"kind": kind}])
            assert [one["times"] for one in shown] == [2, None]
            assert await caller.control("GET", path) == shown
            assert await caller.control("DELETE", path) == []
        await caller.control("POST", "webhooks", {"kind": "hold", "of": "checkout.*"})
        await caller.paid()
        assert await caller.control("POST", "release", {"order": "reversed"}) == {"released": 1}
        await caller.settled()
        event = caller.hook.of("checkout.session.completed")[0].id
        await caller.control("DELETE", "webhooks")
        await caller.control("POST", "resend", {"event": event, "times": 3})
        twin = await caller.control("POST", "twin", {"event": event})
        await caller.settled()
        assert len(caller.hook.of("checkout.session.completed")) == 5
        assert twin["id"] != event
        await caller.control("POST", "seed", {"seed": 4})

    tell(story)


def test_endpoints_and_keys_are_set_over_http():
    async def story(caller):
        (first,) = (await caller.v1.webhook_endpoints.list_async()).data
        await caller.v1.webhook_endpoints.delete_async(first.id)
        await caller.control("POST", "endpoints", {"url": first.url, "secrets": ["whsec_1", "whsec_2"]})
        caller.hook.secret = "whsec_2"
        await caller.paid()
        await caller.settled()
        assert len(caller.hook.events) == 4
        await caller.control("POST", "keys", {"key": "rk_test_x", "permissions": ["charge_read"]})
        with pytest.raises(stripe.PermissionError):
            await caller.sessions.list_async({}, {"api_key": "rk_test_x"})

    tell(story)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("nothing", {}, 404),
        ("acts/nothing", {}, 404),
        ("acts/pay", {"session": "cs_test_nobody"}, 404),
        ("acts/pay", {}, 400),
        ("acts/pay", [], 400),
        ("acts/finish_refund", {"refund": "re_x", "colour": "red"}, 400),
        ("faults", {"kind": "x"}, 400),
        ("faults", ["x"], 400),
        ("webhooks", 1, 400),
        ("settings", {"pay_later_seconds": -1}, 400),
        ("clock", {}, 400),
        ("release", {"order": "x"}, 400),
        ("resend", {"event": "evt_nobody"}, 404),
    ],
)
def test_what_makes_no_sense_on_the_control_paths_is_refused(path, body, status):
    async def story(caller):
        answer = await caller.send("POST", f"/_sandbox/{path}", key=None, json=body)
        assert answer.status_code == status
        assert "error" in answer.json()

    tell(story)
