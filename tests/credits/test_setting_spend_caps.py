"""Spend caps that are set, changed and lifted: what counts then, whoever keeps keys and credits, on each database."""

from __future__ import annotations

import asyncio

import pytest

from gateway.credits import capping
from gateway.credits.periods import DAY_MS
from gateway.credits.provider import NO_CAPS, Hold, SpendCap, SpendCaps
from gateway.errors import CreditsUnavailable, Invalid
from tests.credits.capping import APRIL, MIDNIGHT, audit_caps, refused, spend, spent, take
from tests.credits.claiming import KEEPERS, ledger_of
from tests.credits.conftest import NOON


@pytest.fixture(params=KEEPERS)
def ledger(request, database_of, clock):
    return ledger_of(request.param, database_of)


def test_who_sets_the_cap_anew_gets_a_key_back_from_the_future_in_which_a_wrong_clock_put_it(ledger, run, clock):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000, spend_caps={"day": 10, "month": 20})
            await spend(provider, secret, 3)
            clock.now = NOON + 400 * DAY_MS
            early = await take(provider, secret, 10)
            clock.now = NOON
            assert (await refused(provider, secret, 1))["spent"] == 10
            capped = await provider.cap(key.key_id, {"day": 10})
            assert (capped.spend_caps.day.spent, capped.spend_caps.month.cap) == (3, 20)
            await provider.release(early, "test")
            assert await spent(provider, key.key_id) == (3, 3)
            await spend(provider, secret, 7)
            assert (await refused(provider, secret, 1))["spent"] == 10

    run(main())


def test_one_entry_of_a_wrong_clock_hides_none_before_it_from_a_cap_that_is_set(ledger, run, clock, monkeypatch):
    monkeypatch.setattr(capping, "PAGE_MAX", 2)

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000)
            await spend(provider, secret, 500)
            clock.now = NOON - 400 * DAY_MS
            await spend(provider, secret, 1)
            clock.now = NOON
            await spend(provider, secret, 2)
            capped = await provider.cap(key.key_id, {"month": 600})
            assert capped.spend_caps.month.spent == 502

    run(main())


def test_what_a_clock_that_is_ahead_spent_after_midnight_counts_in_the_new_day_of_a_cap_that_is_set(ledger, run, clock):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000)
            await spend(provider, secret, 5)
            clock.now = MIDNIGHT + 50
            await spend(provider, secret, 60)
            held = await take(provider, secret, 20)
            clock.now = MIDNIGHT - 50
            capped = await provider.cap(key.key_id, {"day": 100})
            assert capped.spend_caps.day == SpendCap(100, 80, MIDNIGHT + DAY_MS)
            assert (await refused(provider, secret, 21))["spent"] == 80
            clock.now = MIDNIGHT + 100
            await provider.release(held, "test")
            assert await spent(provider, key.key_id) == (60, None)
        audit_caps(ledger)

    run(main())


def test_nothing_is_read_where_no_cap_comes_of_it_and_one_ledger_at_a_time_where_one_does(
    ledger, run, clock, monkeypatch
):
    reading, most, pages = 0, 0, 0
    read_page, tally = capping._read_page, capping._tally

    def page(*args, **kwargs):
        nonlocal pages
        pages += 1
        return read_page(*args, **kwargs)

    async def one_of_many(*args):
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0)
        told = await tally(*args)
        reading -= 1
        return told

    async def main():
        async with ledger.provider() as provider:
            made = [await provider.create("u", credits=1_000) for _ in range(5)]
            for secret, _ in made:
                await spend(provider, secret, 5)
            monkeypatch.setattr(capping, "_read_page", page)
            monkeypatch.setattr(capping, "_tally", one_of_many)
            for _, key in made:
                await provider.cap(key.key_id, {})
                await provider.cap(key.key_id, {"day": None, "month": None})
            assert pages == 0
            await asyncio.gather(*(provider.cap(key.key_id, {"day": 10}) for _, key in made))
            assert [await spent(provider, key.key_id) for _, key in made] == [(5, None)] * 5
            assert (pages, most) == (5, 1)

    run(main())


def test_a_ledger_that_takes_too_long_to_read_is_given_up(ledger, run, clock, monkeypatch):
    async def never(*_):
        await asyncio.Event().wait()

    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=1_000)
            with monkeypatch.context() as patched:
                patched.setattr(capping, "_tally", never)
                patched.setattr(capping, "TIMEOUT_SECONDS", 0.01)
                with pytest.raises(CreditsUnavailable):
                    await provider.cap(key.key_id, {"day": 10})
            assert (await provider.cap(key.key_id, {"day": 10})).spend_caps.day.spent == 0

    run(main())


@pytest.mark.parametrize("page", [1, 2, 3, 1_000])
def test_a_cap_that_is_set_in_the_midst_counts_what_was_spent_already(ledger, run, clock, monkeypatch, page):
    monkeypatch.setattr(capping, "PAGE_MAX", page)

    async def main():
        async with ledger.provider() as provider:
            clock.now = NOON - 40 * DAY_MS
            secret, key = await provider.create("u", credits=10_000)
            other, _ = await provider.create("u", credits=20_000)
            await spend(provider, secret, 1_000)
            old = await take(provider, secret, 2_000)
            clock.now = NOON - DAY_MS
            await spend(provider, secret, 300)
            await provider.release(await take(provider, secret, 5_000), "test")
            yesterdays = await take(provider, secret, 400)
            clock.now = NOON
            for cost in (10, 20, 30):
                await spend(provider, secret, cost)
                await spend(provider, other, 3_000)
            todays = await take(provider, secret, 5)
            await take(provider, other, 3_000)
            capped = await provider.cap(key.key_id, {"day": 70, "month": 800})
            assert capped.spend_caps == SpendCaps(SpendCap(70, 65, MIDNIGHT), SpendCap(800, 765, APRIL))
            assert (await refused(provider, secret, 6))["cap"] == "day"
            await spend(provider, secret, 5)
            for hold in (old, yesterdays, todays):
                await provider.release(hold, "test")
            assert await spent(provider, key.key_id) == (65, 365)

    run(main())


def test_a_month_that_has_just_begun_is_counted_whole_though_clocks_differ(ledger, run, clock):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000)
            for now, cost in [(APRIL - 100, 1), (APRIL + 5, 10), (APRIL - 5, 100), (APRIL + 10, 200)]:
                clock.now = now
                await spend(provider, secret, cost)
            caps = (await provider.cap(key.key_id, {"day": 500, "month": 500})).spend_caps
            assert (caps.day.spent, caps.month.spent) == (210, 210)

    run(main())


@pytest.mark.parametrize("page", [1, 2, 1_000])
def test_calls_while_a_cap_is_being_set_are_counted_once(ledger, run, monkeypatch, page):
    """The ledger has been read, the cap is not yet set: this is where all calls happen."""
    monkeypatch.setattr(capping, "NEW_PAGE_MAX", page)
    working = capping._tally

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000)
            for cost in (1, 2, 3):
                await spend(provider, secret, cost)
            before = await take(provider, secret, 10)

            async def read_and_call(*args):
                tally = await working(*args)
                for cost in (100, 200, 300):
                    await spend(provider, secret, cost)
                await provider.settle(before, 7)
                await take(provider, secret, 20)
                return tally

            monkeypatch.setattr(capping, "_tally", read_and_call)
            capped = await provider.cap(key.key_id, {"day": 1_000, "month": 1_000})
            assert capped.spend_caps.day.spent == 6 + 600 + 7 + 20
            audit_caps(ledger)

    run(main())


def test_no_call_is_lost_or_counted_twice_while_caps_come_and_go(ledger, run):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            secret, key = await one.create("u", credits=None)
            is_over = False

            async def calls(provider):
                while not is_over:
                    hold = await take(provider, secret, 3)
                    await provider.settle(hold, 2)

            callers = [asyncio.ensure_future(calls(provider)) for _ in range(4) for provider in (one, two)]
            for _ in range(6):
                await two.cap(key.key_id, {"day": 1_000_000, "month": 1_000_000})
                before = (await one.get(key.key_id)).spend_caps.day.spent
                await until_spent(one, key.key_id, before + 20)
                await one.cap(key.key_id, {"day": None, "month": None})
            await two.cap(key.key_id, {"month": 1_000_000})
            is_over = True
            await asyncio.gather(*callers)
        audit_caps(ledger)

    async def until_spent(provider, key_id, least):
        while (await spent(provider, key_id))[0] < least:
            await asyncio.sleep(0.001)

    run(main())


def test_of_midnight_while_the_ledger_is_being_read_the_day_that_has_begun_counts(ledger, run, clock, monkeypatch):
    working = capping._tally

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000)
            await spend(provider, secret, 30)

            async def read_till_midnight(*args):
                tally = await working(*args)
                monkeypatch.setattr(capping, "_tally", working)
                clock.now = MIDNIGHT
                await spend(provider, secret, 5)
                return tally

            monkeypatch.setattr(capping, "_tally", read_till_midnight)
            capped = await provider.cap(key.key_id, {"day": 50, "month": 50})
            assert capped.spend_caps == SpendCaps(SpendCap(50, 5, MIDNIGHT + DAY_MS), SpendCap(50, 35, APRIL))

    run(main())


@pytest.mark.parametrize("is_capped", [True, False])
def test_whoever_else_changes_the_caps_meanwhile_is_not_overwritten_by_what_was_read_before(
    ledger, run, monkeypatch, is_capped
):
    working = capping._tally

    async def main():
        async with ledger.provider() as provider, ledger.provider() as other:
            secret, key = await provider.create("u", credits=1_000, spend_caps={"day": 50} if is_capped else {})
            await spend(provider, secret, 30)

            async def read_and_change(*args):
                tally = await working(*args)
                monkeypatch.setattr(capping, "_tally", working)
                await other.cap(key.key_id, {"day": None if is_capped else 40})
                await spend(provider, secret, 5)
                return tally

            monkeypatch.setattr(capping, "_tally", read_and_change)
            await provider.cap(key.key_id, {"month": 60})
            caps = (await provider.get(key.key_id)).spend_caps
            assert caps == SpendCaps(None if is_capped else SpendCap(40, 35, MIDNIGHT), SpendCap(60, 35, APRIL))
        audit_caps(ledger)

    run(main())


def test_caps_change_one_by_one_and_what_is_spent_stays(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=1_000, spend_caps={"day": 10})
            await spend(provider, secret, 7)
            hold = await take(provider, secret, 2)
            for changes, day, month in [
                ({"month": 100}, (10, 9), (100, 9)),
                ({"day": 20}, (20, 9), (100, 9)),
                ({}, (20, 9), (100, 9)),
                ({"day": None}, None, (100, 9)),
                ({"day": 9, "month": 5}, (9, 9), (5, 9)),
            ]:
                caps = (await provider.cap(key.key_id, changes)).spend_caps
                assert (caps.day and (caps.day.cap, caps.day.spent)) == day
                assert (caps.month and (caps.month.cap, caps.month.spent)) == month
                audit_caps(ledger)
            assert (await refused(provider, secret, 1))["spent"] == 9
            together = await asyncio.gather(
                *(take(provider, secret, cost) for cost in (1, 0) * 4), return_exceptions=True
            )
            assert [isinstance(outcome, Hold) for outcome in together] == [False, True] * 4
            lifted = await provider.cap(key.key_id, {"day": None, "month": None})
            assert lifted.spend_caps == NO_CAPS
            assert ledger.count("spend_caps") == 0
            audit_caps(ledger)
            await provider.settle(hold, 1)
            await spend(provider, secret, 50)
            again = await provider.cap(key.key_id, {"day": 60})
            assert again.spend_caps.day.spent == 58
        audit_caps(ledger)

    run(main())


def test_lifting_what_is_not_there_changes_nothing(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=5, spend_caps={"day": None, "month": None})
            assert key.spend_caps == NO_CAPS
            assert (await provider.cap(key.key_id, {"day": None})).spend_caps == NO_CAPS
            assert ledger.count("spend_caps") == 0
            assert await provider.cap("key_nobody", {"day": 1}) is None
        audit_caps(ledger)

    run(main())


@pytest.mark.parametrize(
    ("caps", "field"),
    [
        ({"day": -1}, "spend_caps.day"),
        ({"month": 10**9 + 1}, "spend_caps.month"),
        ({"day": True}, "spend_caps.day"),
        ({"day": 1.5}, "spend_caps.day"),
        ({"week": 1}, "spend_caps"),
    ],
)
def test_what_is_no_cap_is_refused_by_name_and_makes_or_changes_nothing(ledger, run, caps, field):
    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=5)
            with pytest.raises(Invalid) as caught:
                await provider.cap(key.key_id, caps)
            assert list(caught.value.members["errors"]) == [field]
            with pytest.raises(Invalid):
                await provider.create("u", credits=5, spend_caps=caps)
            assert (ledger.count("keys"), ledger.count("spend_caps")) == (1, 0)

    run(main())


def test_a_key_that_is_rotated_keeps_its_caps_and_what_is_counted(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"day": 10})
            await spend(provider, secret, 8)
            secret, rotated = await provider.rotate(key.key_id)
            assert rotated.spend_caps == SpendCaps(SpendCap(10, 8, MIDNIGHT), None)
            assert (await refused(provider, secret, 3))["spent"] == 8
            await spend(provider, secret, 2)
            assert (await provider.identify(secret.encode())).spend_caps.day.spent == 10
        audit_caps(ledger)

    run(main())


def test_every_way_to_look_at_a_key_shows_its_caps_and_no_other_keys(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100, spend_caps={"month": 10})
            await provider.create("u", credits=100)
            await spend(provider, secret, 8)
            caps = SpendCaps(None, SpendCap(10, 8, APRIL))
            assert (await provider.get(key.key_id)).spend_caps == caps
            assert (await provider.identify(secret.encode())).spend_caps == caps
            listed = {one.key_id: one.spend_caps for one in await provider.list("u")}
            assert listed.pop(key.key_id) == caps
            assert list(listed.values()) == [NO_CAPS]

    run(main())
