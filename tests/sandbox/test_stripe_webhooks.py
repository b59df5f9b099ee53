"""Webhooks of the stand-in for Stripe: signed as the SDK verifies them, stubborn, and wrong when told to be."""

from __future__ import annotations

import itertools
import json
import socket

import pytest
import stripe

from gateway.sandbox.fields import InvalidField
from gateway.sandbox.stripe.events import API_VERSION
from tests.sandbox.stripe_caller import START_SECONDS, Hook, tell

COMPLETED = "checkout.session.completed"
PAID = {"payment_intent.created", "charge.succeeded", "payment_intent.succeeded", COMPLETED}


def test_every_event_arrives_signed_with_the_object_as_it_was_then():
    async def story(caller):
        made = await caller.create()
        caller.acts.pay(made.id)
        await caller.settled()
        assert set(caller.hook.kinds) == PAID
        (completed,) = caller.hook.of(COMPLETED)
        assert completed.id.startswith("evt_")
        assert (completed.object, completed.livemode, completed.created) == ("event", False, START_SECONDS)
        assert completed.api_version == API_VERSION == stripe.api_version
        assert (completed.data.object.id, completed.data.object.payment_status) == (made.id, "paid")
        (created,) = caller.hook.of("payment_intent.created")
        assert created.data.object.status == "requires_payment_method"
        body, signature, headers = caller.hook.raw[0]
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert json.loads(body)["pending_webhooks"] == 1
        assert [part.partition("=")[0] for part in signature.split(",")] == ["t", "v1", "v0"]

    tell(story)


def test_an_event_names_the_request_that_caused_it_and_none_for_what_a_buyer_did():
    async def story(caller):
        paid = await caller.paid()
        await caller.v1.refunds.create_async({"payment_intent": paid.payment_intent}, {"idempotency_key": "r1"})
        await caller.settled()
        (refunded,) = caller.hook.of("charge.refunded")
        assert refunded.request.idempotency_key == "r1"
        assert refunded.request.id.startswith("req_")
        assert refunded.data.previous_attributes["amount_refunded"] == 0
        assert caller.hook.of(COMPLETED)[0].request.id is None

    tell(story)


@pytest.mark.parametrize("secret", ["whsec_old", "whsec_new"])
def test_while_a_secret_is_rolled_either_verifies(secret):
    async def story(caller):
        await caller.paid()
        await caller.settled()
        assert set(caller.hook.kinds) == PAID
        assert all(signature.count("v1=") == 2 for _, signature, _ in caller.hook.raw)

    tell(story, hook=Hook(secret=secret), webhook_secrets=("whsec_old", "whsec_new"))


def test_a_rolled_secret_no_longer_signs():
    async def story(caller):
        (endpoint,) = caller.server.database.webhook_endpoints
        caller.server.endpoints.roll(endpoint["id"], ("whsec_other",))
        made = await caller.create()
        caller.acts.expire(made.id)
        await caller.eventually(lambda: caller.hook.raw)
        body, signature, _ = caller.hook.raw[0]
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.WebhookSignature.verify_header(body, signature, Hook().secret)
        assert stripe.WebhookSignature.verify_header(body, signature, "whsec_other")

    tell(story)


@pytest.mark.parametrize("status", [500, 503, 400, 302])
def test_what_is_not_taken_is_tried_again_ever_more_rarely_until_it_is(status):
    async def story(caller):
        caller.hook.status = status
        made = await caller.create()
        caller.acts.expire(made.id)
        deliveries = caller.server.webhooks.deliveries
        for attempt in range(1, 4):
            await caller.eventually(lambda attempt=attempt: len(deliveries) == attempt)
            event = (await caller.v1.events.list_async()).data[0]
            assert event.pending_webhooks == 1
            caller.server.timetable.advance(2 ** (attempt - 1) - 0.5)
            assert len(deliveries) == attempt
            caller.hook.status = 200 if attempt == 3 else status
            caller.server.timetable.advance(0.5)
        await caller.settled()
        assert [delivery.attempt for delivery in deliveries] == [1, 2, 3, 4]
        assert [delivery.taken for delivery in deliveries] == [False, False, False, True]
        assert len({event.id for event in caller.hook.events}) == 1
        assert (await caller.v1.events.list_async()).data[0].pending_webhooks == 0

    tell(story)


def test_nobody_at_home_and_too_slow_count_as_not_taken():
    async def story(caller):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            caller.server.endpoints.add(f"http://127.0.0.1:{taken.getsockname()[1]}/", ("whsec_x",))
            caller.server.settings.webhook_timeout_seconds = 0.05
            caller.hook.delay_seconds = 0.3
            made = await caller.create()
            caller.acts.expire(made.id)
            await caller.eventually(lambda: len(caller.server.webhooks.deliveries) == 2)
        assert {delivery.error for delivery in caller.server.webhooks.deliveries} == {"ConnectError", "TimeoutError"}

    tell(story)


def test_stripe_gives_up_after_so_many_attempts_and_keeps_the_event():
    async def story(caller):
        caller.hook.status = 500
        caller.server.settings.change({"webhook_attempts_max": 2, "webhook_retry_seconds": 0})
        made = await caller.create()
        caller.acts.expire(made.id)
        await caller.settled()
        assert len(caller.server.webhooks.deliveries) == 2
        failed = await caller.v1.events.list_async({"delivery_success": False})
        assert [event.type for event in failed.data] == ["checkout.session.expired"]

    tell(story)


def test_a_disabled_endpoint_gets_nothing_more():
    async def story(caller):
        caller.hook.status = 500
        made = await caller.create()
        caller.acts.expire(made.id)
        await caller.eventually(lambda: caller.server.webhooks.deliveries)
        (endpoint,) = (await caller.v1.webhook_endpoints.list_async()).data
        await caller.v1.webhook_endpoints.update_async(endpoint.id, {"disabled": True})
        caller.server.timetable.advance(3600)
        await caller.settled()
        await caller.paid()
        await caller.settled()
        assert len(caller.server.webhooks.deliveries) == 1

    tell(story)


def test_an_endpoint_made_by_the_api_gets_the_kinds_it_asked_for_signed_with_its_own_secret():
    async def story(caller):
        (first,) = (await caller.v1.webhook_endpoints.list_async()).data
        made = await caller.v1.webhook_endpoints.create_async(
            {"url": first.url, "enabled_events": [COMPLETED], "api_version": API_VERSION}
        )
        await caller.v1.webhook_endpoints.delete_async(first.id)
        caller.hook.secret = made.secret
        assert made.secret.startswith("whsec_")
        await caller.paid()
        await caller.settled()
        assert caller.hook.kinds == [COMPLETED]
        found = await caller.v1.webhook_endpoints.retrieve_async(made.id)
        assert "secret" not in found

    tell(story)


def test_events_are_listed_newest_first_by_kind_time_and_delivery():
    async def story(caller):
        made = await caller.create()
        caller.acts.expire(made.id)
        caller.server.timetable.advance(10)
        caller.server.webhook_faults.set(kind="drop", of="charge.*")
        await caller.paid()
        await caller.settled()

        async def kinds(**params):
            return [event.type for event in (await caller.v1.events.list_async(params)).data]

        assert (await kinds())[-1] == "checkout.session.expired"
        assert await kinds(types=[COMPLETED, "checkout.session.expired"]) == [COMPLETED, "checkout.session.expired"]
        assert await kinds(type="payment_intent.*") == ["payment_intent.succeeded", "payment_intent.created"]
        assert await kinds(delivery_success=False) == ["charge.succeeded"]
        assert len(await kinds(delivery_success=True)) == 4
        assert len(await kinds(created={"gt": START_SECONDS})) == 4
        newest = (await caller.v1.events.list_async({"limit": 1})).data[0]
        assert (await caller.v1.events.retrieve_async(newest.id)).type == newest.type
        oldest = (await caller.v1.events.list_async({"types": ["checkout.session.expired"]})).data[0]
        # With ending_before, paging is chronological: how one catches up.
        page = await caller.v1.events.list_async({"ending_before": oldest.id, "limit": 2})
        found = [event.type async for event in page.auto_paging_iter()]
        assert found == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded", COMPLETED]

    tell(story)


# Switches.


def test_a_duplicate_is_the_same_event_several_times():
    async def story(caller):
        caller.server.webhook_faults.set(kind="duplicate", of=COMPLETED, copies=4)
        await caller.paid()
        await caller.settled()
        assert len(caller.hook.of(COMPLETED)) == 5
        assert len({event.id for event in caller.hook.of(COMPLETED)}) == 1
        assert len(caller.hook.events) == 8

    tell(story)


def test_a_twin_is_another_event_of_the_same_change():
    async def story(caller):
        caller.server.webhook_faults.set(kind="twin", of=COMPLETED, times=1)
        paid = await caller.paid()
        await caller.settled()
        twins = caller.hook.of(COMPLETED)
        assert len({event.id for event in twins}) == 2
        assert {event.data.object.id for event in twins} == {paid.id}
        another = caller.server.events.twin(twins[0].id)
        await caller.settled()
        assert len({event.id for event in caller.hook.of(COMPLETED)}) == 3
        assert another["pending_webhooks"] == 0

    tell(story)


def test_what_is_dropped_never_arrives_though_it_happened():
    async def story(caller):
        caller.server.webhook_faults.set(kind="drop")
        paid = await caller.paid()
        await caller.settled()
        assert caller.hook.events == []
        assert paid.payment_status == "paid"
        assert len((await caller.v1.events.list_async({"delivery_success": False})).data) == 4

    tell(story)


def test_what_is_delayed_arrives_when_its_time_has_come():
    async def story(caller):
        caller.server.webhook_faults.set(kind="delay", of=COMPLETED, seconds=60)
        await caller.paid()
        await caller.eventually(lambda: len(caller.hook.events) == 3)
        caller.server.timetable.advance(59)
        assert caller.hook.of(COMPLETED) == []
        caller.server.timetable.advance(1)
        await caller.settled()
        assert len(caller.hook.of(COMPLETED)) == 1

    tell(story)


@pytest.mark.parametrize("order", ["created", "reversed", "shuffled"])
def test_what_is_held_is_released_in_the_order_asked_for(order):
    async def story(caller):
        caller.server.webhook_faults.set(kind="hold")
        for _ in range(3):
            await caller.paid()
        await caller.settled()
        assert caller.hook.events == []
        held = [event["id"] for event in caller.server.database.events]
        sent = []
        caller.server.webhooks._attempt = lambda event, *_: _taken(sent, event)
        assert caller.server.webhooks.release(order) == len(held) == 12
        await caller.settled()
        expected = {"created": held, "reversed": held[::-1]}
        assert sent == expected[order] if order in expected else (sent != held and sorted(sent) == sorted(held))

    async def _taken(sent, event):
        sent.append(event["id"])
        return True

    tell(story)


def test_the_same_seed_shuffles_the_same_way():
    def order(seed):
        async def story(caller):
            caller.server.webhook_faults.set(kind="reorder", seconds=10)
            return [caller.server.webhook_faults.plan("x").delays_seconds for _ in range(5)]

        return tell(story, seed=seed)

    assert order(1) == order(1) != order(2)
    assert len(set(itertools.chain(*order(1)))) == 5


def test_resending_brings_an_event_many_times_at_once_whatever_the_switches_say():
    async def story(caller):
        caller.server.webhook_faults.set(kind="drop")
        await caller.paid()
        event = (await caller.v1.events.list_async({"type": COMPLETED})).data[0]
        caller.server.webhooks.resend(event.id, 50)
        await caller.settled()
        assert [one.id for one in caller.hook.events] == [event.id] * 50

    tell(story)


@pytest.mark.parametrize("switch", [{"kind": "twins"}, {"kind": "drop", "off": "x"}, {"kind": "delay", "seconds": -1}])
def test_a_switch_that_does_not_exist_is_refused(switch):
    async def story(caller):
        with pytest.raises(InvalidField):
            caller.server.webhook_faults.set(**switch)

    tell(story)
