"""Who is refused with Unkey as the provider: at once by our own books, and without asking for a key that is unknown."""

from __future__ import annotations

import asyncio

import pytest

from gateway.errors import CreditsUnavailable, InvalidKey, KeyDisabled
from gateway.sandbox.unkey.permissions import RootKey
from gateway.sandbox.unkey.server import ROOT_KEY
from tests.credits.conftest import until
from tests.credits.unkey.harness import CROWD, UnkeyLedger, hold, written


@pytest.fixture
def ledger(tmp_path):
    return UnkeyLedger(tmp_path / "gateway.db")


# Who is refused at once


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_a_rotated_secret_is_refused_at_once_though_unkeys_cache_still_finds_it_valid(tmp_path, run, known):
    ledger = UnkeyLedger(tmp_path / "gateway.db", key_cache_seconds=600)

    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            old, key = await one.create("u", credits=20)
            for provider in (one, two) if known else (one,):
                await provider.settle(await hold(provider, old, 1, f"before{provider is one}"), 1)
            new, _ = await one.rotate(key.key_id)
            ledger.fail("stale")
            for number in range(3):
                for provider in (one, two):
                    with pytest.raises(InvalidKey):
                        await hold(provider, old, 2, f"after{number}{provider is one}")
            ledger.server.faults.clear()
            await written(one)
            await written(two)
            await two.settle(await hold(two, new, 3, "r3"), 3)
        ledger.audit({})

    run(main())


@pytest.mark.parametrize(("stop", "error"), [("revoke", InvalidKey), ("disable", KeyDisabled)])
def test_a_stopped_key_is_refused_at_once_though_unkeys_cache_still_finds_it_valid(tmp_path, run, stop, error):
    ledger = UnkeyLedger(tmp_path / "gateway.db", key_cache_seconds=600)

    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            secret, key = await one.create("u", credits=20)
            await one.settle(await hold(one, secret, 1, "r1"), 1)
            await (one.revoke(key.key_id) if stop == "revoke" else one.enable(key.key_id, False))
            ledger.fail("stale")
            asked = len(ledger.verifies())
            for provider in (one, two):
                with pytest.raises(error):
                    await hold(provider, secret, 1, f"r{provider is two}")
            assert len(ledger.verifies()) == asked
        ledger.audit({})

    run(main())


def test_a_key_that_is_enabled_again_is_good_at_once(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=20)
            await provider.enable(key.key_id, False)
            with pytest.raises(KeyDisabled):
                await hold(provider, secret, 1, "r1")
            await provider.enable(key.key_id, True)
            await provider.settle(await hold(provider, secret, 1, "r2"), 1)
        ledger.audit({})

    run(main())


def test_a_secret_that_is_being_rotated_takes_nothing_from_the_balance_that_the_new_one_gets(ledger, run):
    """Unkey knows the old one as valid until it is told; what it takes then would be missing from the copy."""

    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            old, key = await one.create("u", credits=20)
            await one.settle(await hold(one, old, 1, "r1"), 1)
            ledger.fail("slow", "rerollKey", seconds=0.3)
            rotating = asyncio.create_task(one.rotate(key.key_id))
            await until(lambda: ledger.server.books.calls["keys.rerollKey"] == 1)
            for number in range(3):
                for provider in (one, two):
                    with pytest.raises(InvalidKey):
                        await hold(provider, old, 5, f"during{number}{provider is one}")
            _, rotated = await rotating
            assert rotated.available == 19
            await written(one)
            await written(two)
        ledger.audit({})

    run(main())


def test_rotating_waits_for_calls_of_the_old_secret_so_that_nothing_they_took_is_lost(ledger, run):
    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            old, key = await one.create("u", credits=20)
            await one.settle(await hold(one, old, 1, "r1"), 1)
            ledger.fail("slow", seconds=0.3, times=1)  # carried out after the rotation has begun
            asking = asyncio.create_task(hold(two, old, 5, "r2"))
            await until(lambda: len(ledger.verifies()) == 2)
            _, rotated = await one.rotate(key.key_id)
            assert (rotated.available, rotated.held) == (14, 5)
            await two.release(await asking, "5xx")
            assert (await one.balance(key.key_id)).available == 19
        ledger.audit({})

    run(main())


# Unknown keys


def test_a_flood_of_one_unknown_key_costs_unkey_one_call(ledger, run):
    async def main():
        async with ledger.patient_provider() as provider:
            for _ in range(2):
                outcomes = await asyncio.gather(
                    *(hold(provider, "gw_unknown", 1, f"r{n}") for n in range(1_000)), return_exceptions=True
                )
                assert all(type(outcome) is InvalidKey for outcome in outcomes)
            assert len(ledger.verifies()) == 1
            assert ledger.count("keys") == 0

    run(main())


def test_an_unknown_key_is_asked_about_again_when_the_negative_time_is_over(ledger, run, monkeypatch):
    monkeypatch.setattr("gateway.credits.unkey.spending.NEGATIVE_SECONDS", 0.2)

    async def main():
        async with ledger.provider() as provider:
            for _ in range(5):
                with pytest.raises(InvalidKey):
                    await hold(provider, "gw_unknown")
            await asyncio.sleep(0.25)
            with pytest.raises(InvalidKey):
                await hold(provider, "gw_unknown")
            assert len(ledger.verifies()) == 2

    run(main())


def test_a_new_secret_is_not_shadowed_by_what_was_said_before_it_was_made(ledger, run, monkeypatch):
    monkeypatch.setattr("gateway.sandbox.unkey.keeping.new_secret", lambda *_: ("gw_guessed", "gw_gue"))

    async def main():
        async with ledger.provider() as provider:
            with pytest.raises(InvalidKey):
                await hold(provider, "gw_guessed")
            secret, _ = await provider.create("u", credits=5)
            assert secret == "gw_guessed"
            await provider.settle(await hold(provider, secret), 1)
        ledger.audit({})

    run(main())


def test_many_different_unknown_keys_leave_nothing_behind(ledger, run):
    async def main():
        async with ledger.patient_provider() as provider:
            outcomes = await asyncio.gather(
                *(hold(provider, f"gw_{n}", 3, f"r{n}") for n in range(CROWD)), return_exceptions=True
            )
            assert all(type(outcome) is InvalidKey for outcome in outcomes)
            await written(provider)
            assert [ledger.count(table) for table in ("unkey_holds", "doubts", "entries", "keys")] == [0, 0, 0, 0]
            assert not provider._spending._introductions

    run(main())


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_not_found_is_503_when_unkey_does_not_find_the_canary_either(ledger, run, known):
    """To a root key that lost its permission every key is unknown: that is our fault, never the caller's."""

    async def main():
        canary_id, canary = ledger.server.create_key()
        async with ledger.provider(canary_key=canary) as provider:
            secret, _ = await provider.create("u", credits=9)
            if known:
                await provider.settle(await hold(provider, secret, 1, "r0"), 1)
            ledger.server.database.root_keys[ROOT_KEY] = RootKey(("api.*.create_key",))
            for number in range(3):
                with pytest.raises(CreditsUnavailable):
                    await hold(provider, secret, 1, f"r{number + 1}")
            ledger.server.database.root_keys[ROOT_KEY] = RootKey()
            await provider.settle(await hold(provider, secret, 1, "r9"), 1)
            await written(provider)
            assert ledger.count("doubts") == 0
        ledger.audit({})
        assert canary_id

    run(main())
