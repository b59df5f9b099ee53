"""Keys made at Unkey and seen here first: their owner, and what their ledger begins with."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import OutOfCredits
from tests.credits.conftest import until
from tests.credits.unkey.harness import CROWD, UnkeyLedger, hold


@pytest.fixture
def ledger(tmp_path):
    return UnkeyLedger(tmp_path / "gateway.db")


@pytest.mark.parametrize("external_id", [None, "user-7", "u8.dcO8cg"])
def test_a_key_made_at_unkey_is_adopted_with_its_owner_and_what_it_has(ledger, run, external_id):
    async def main():
        async with ledger.provider() as provider:
            fields = {} if external_id is None else {"externalId": external_id}
            key_id, secret = ledger.server.create_key(credits=50, **fields)
            first = await hold(provider, secret, 8, "r1")
            owner = {None: key_id, "user-7": "user-7", "u8.dcO8cg": "u8.dcO8cg"}[external_id]
            assert (first.key_id, first.user_id, first.available) == (key_id, owner, 42)
            await provider.settle(first, 5)
            opening = (await provider.history(key_id))[-1]
            assert (opening.kind, opening.amount, opening.reference) == ("adjustment", 50, f"first-seen:{key_id}")
            assert (await provider.balance(key_id)).available == 45
            assert ledger.rows("SELECT key, asked, drawn FROM unkey_holds") == []
        ledger.audit({})

    run(main())


def test_a_key_that_lacks_the_credits_for_its_first_call_is_adopted_too(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            key_id, secret = ledger.server.create_key(credits=5)
            with pytest.raises(OutOfCredits) as caught:
                await hold(provider, secret, 8, "r1")
            assert caught.value.members["available"] == 5
            await provider.settle(await hold(provider, secret, 5, "r2"), 5)
            assert [entry.amount for entry in await provider.history(key_id)] == [-5, 5]
        ledger.audit({})

    run(main())


def test_an_owner_who_changes_at_unkey_changes_here_with_the_next_call(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("one", credits=9)
            await provider.settle(await hold(provider, secret, 1, "r1"), 1)
            ledger.server.call("keys.updateKey", {"keyId": key.key_id, "externalId": "two"})
            second = await hold(provider, secret, 1, "r2")
            assert second.user_id == "two"
            await provider.settle(second, 1)
            assert len(await provider.history(key.key_id)) == 3
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_use_of_a_key_by_a_crowd_verifies_each_call_once_and_adopts_the_key_once(ledger, run, count):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            providers = (one, two)[:count]
            _, secret = ledger.server.create_key(credits=1_000)
            holds = await asyncio.gather(
                *(hold(p, secret, 2, f"{p is one}{n}") for n in range(CROWD // count) for p in providers)
            )
            assert ledger.asked() == [2] * CROWD
            for number, taken in enumerate(holds):
                await providers[number % count].settle(taken, taken.cost // (1 + number % 2))
            assert ledger.count("keys") == 1
            openings = ledger.rows("SELECT sum(amount) FROM entries WHERE kind <> 'spend'")
            assert openings == [(1_000,)]
        ledger.audit({})

    run(main())


def test_a_first_use_whose_answer_comes_after_anothers_opens_the_account_with_all_there_was(ledger, run):
    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            key_id, secret = ledger.server.create_key(credits=100)
            ledger.fail("slow", seconds=0.3, takes_effect=True, times=1)
            late = asyncio.create_task(hold(one, secret, 30, "late"))
            await until(lambda: len(ledger.verifies()) == 1)
            await two.settle(await hold(two, secret, 5, "quick"), 5)
            await one.release(await late, "5xx")
            assert (await one.balance(key_id)).available == 95
        ledger.audit({})

    run(main())
