"""The switches of the stand-in for Stripe: what they make of a call, and whether it takes effect."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import stripe

from gateway.sandbox.fields import InvalidField
from gateway.sandbox.stripe.malformed import WAYS
from tests.sandbox.stripe_caller import tell

CREATE = "checkout.sessions.create"


def sessions(caller):
    return len(caller.server.database.sessions)


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("kind", ["reset", "closed", "silent"])
def test_a_lost_answer_took_effect_or_not_and_the_key_finds_out(kind, takes_effect):
    async def story(caller):
        caller.faults.set(kind=kind, of=CREATE, takes_effect=takes_effect, times=1)
        with pytest.raises(stripe.APIConnectionError):
            async with asyncio.timeout(0.5):
                try:
                    await caller.create("order_1")
                except asyncio.CancelledError:
                    raise stripe.APIConnectionError("gave up") from None
        assert sessions(caller) == int(takes_effect)
        made = await caller.create("order_1")
        assert sessions(caller) == 1
        assert caller.server.database.sessions.get(made.id)["status"] == "open"

    tell(story)


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_500_of_the_endpoint_is_what_its_key_answers_for_ever(takes_effect):
    async def story(caller):
        caller.faults.set(kind="error", of=CREATE, takes_effect=takes_effect, times=1)
        for _ in range(2):
            with pytest.raises(stripe.APIError) as caught:
                await caller.create("order_1")
            assert (caught.value.http_status, caught.value.error.type) == (500, "api_error")
        assert sessions(caller) == int(takes_effect)

    tell(story)


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_error_from_before_the_endpoint_is_not_kept(status, takes_effect):
    async def story(caller):
        caller.faults.set(kind="error", of=CREATE, status=status, takes_effect=takes_effect, times=1)
        with pytest.raises(stripe.APIError):
            await caller.create("order_1")
        assert sessions(caller) == int(takes_effect)
        await caller.create("order_1")
        assert sessions(caller) == 1

    tell(story)


def test_whether_an_error_is_kept_can_be_said():
    async def story(caller):
        caller.faults.set(kind="error", of=CREATE, remembered=False, times=1)
        with pytest.raises(stripe.APIError):
            await caller.create("order_1")
        await caller.create("order_1")

    tell(story)


@pytest.mark.parametrize(
    "fault", [{"kind": "error", "status": 503}, {"kind": "reset"}, {"kind": "error", "status": 409}]
)
def test_the_sdk_gets_over_what_passes_without_making_two(fault):
    async def story(caller):
        caller.faults.set(**fault, of=CREATE, takes_effect=True, times=1)
        made = await caller.create()
        assert made.status == "open"
        assert sessions(caller) == 1
        assert caller.server.books.calls[CREATE] == 2

    tell(story, retries=2)


def test_too_many_requests_is_told_as_such():
    async def story(caller):
        caller.faults.set(kind="limited", times=1)
        with pytest.raises(stripe.RateLimitError):
            await caller.create()
        assert sessions(caller) == 0

    tell(story)


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_slow_call_takes_effect_at_its_end_or_at_once(takes_effect):
    async def story(caller):
        caller.faults.set(kind="slow", of=CREATE, seconds=0.1, takes_effect=takes_effect)
        call = asyncio.create_task(caller.create())
        await caller.eventually(lambda: caller.server.books.calls[CREATE])
        assert sessions(caller) == int(takes_effect)
        assert (await call).status == "open"
        assert sessions(caller) == 1

    tell(story)


@pytest.mark.parametrize("how", WAYS)
def test_a_malformed_answer_is_what_its_name_says_and_took_effect(how):
    async def story(caller):
        caller.faults.set(kind="malformed", of=CREATE, how=how, times=1)
        if how in ("new_fields", "nothing", "not_an_object"):
            made = await caller.create("order_1")
            assert hasattr(made, "id") == (how == "new_fields")
        else:
            with pytest.raises(stripe.StripeError):
                await caller.create("order_1")
        assert sessions(caller) == 1
        assert (await caller.create("order_1")).status == "open"
        assert sessions(caller) == 1

    tell(story)


def test_a_switch_strikes_only_the_calls_that_it_names_and_as_often_as_it_says():
    async def story(caller):
        caller.faults.set(kind="error", of="refunds.*", times=2)
        await caller.create()
        for _ in range(2):
            with pytest.raises(stripe.APIError):
                await caller.v1.refunds.list_async()
        assert (await caller.v1.refunds.list_async()).data == []
        assert [one["times"] for one in caller.faults.document()] == [0]
        caller.faults.set(kind="error")
        caller.faults.clear()
        await caller.create()

    tell(story)


def test_the_same_seed_strikes_the_same_calls():
    def struck(seed):
        async def story(caller):
            caller.faults.set(kind="error", probability=0.5)
            return [caller.faults.strike("x") is not None for _ in range(30)]

        return tell(story, seed=seed)

    assert struck(1) == struck(1) != struck(2)
    assert 5 < sum(struck(1)) < 25


@pytest.mark.parametrize(
    "switch", [{"kind": "explode"}, {"kind": "error", "call": "x"}, {"kind": "error", "status": 200}, {}]
)
def test_a_switch_that_does_not_exist_is_refused(switch):
    async def story(caller):
        with pytest.raises(InvalidField):
            caller.faults.set(**switch)

    tell(story)


def test_the_books_say_what_was_asked_and_what_became_of_it():
    async def story(caller):
        caller.faults.set(kind="reset", of=CREATE, takes_effect=True, times=1)
        with pytest.raises(stripe.APIConnectionError):
            await caller.create("order_1")
        await caller.create("order_1")
        first, second = caller.server.books.requests
        assert (first.fault, first.status) == ("reset", 200)
        assert (second.fault, second.status) == (None, 200)
        assert first.parameters["line_items"]["0"]["quantity"] == "3"
        assert first.asked.idempotency_key == second.asked.idempotency_key == "order_1"

    tell(story)


def test_control_paths_are_never_struck():
    async def story(caller):
        caller.faults.set(kind="reset")
        async with httpx.AsyncClient() as web:
            assert (await web.get(f"{caller.server.url}/_sandbox/faults")).json()[0]["kind"] == "reset"

    tell(story)
