"""Rotating and making keys at Unkey: no credit twice, no secret lost."""

from __future__ import annotations

import asyncio

import pytest

from gateway.credits.unkey import keys
from gateway.errors import CreditsUnavailable, Invalid, InvalidKey
from tests.credits.conftest import run  # noqa: F401 - a fixture
from tests.credits.unkey.harness import UnkeyLedger, written


@pytest.fixture
def lagging(tmp_path):
    return UnkeyLedger(tmp_path / "gateway.db", replay_lag_seconds=0.6)


async def spend(provider, secret, times):
    for number in range(times):
        await provider.settle(await provider.hold(secret.encode(), 10, "/x", f"{secret[-4:]}{number}"), 10)


def test_a_rotation_waits_for_what_was_spent_to_be_counted_at_unkey(lagging, run):  # noqa: F811
    async def main():
        async with lagging.provider() as provider:
            secret, key = await provider.create("u", credits=100)
            await spend(provider, secret, 6)
            secret, rotated = await provider.rotate(key.key_id)
            assert rotated.available == 40
            assert (await provider.balance(key.key_id)).available == 40
        lagging.audit()

    run(main())


def test_a_rotation_waits_too_for_what_is_in_doubt_and_not_counted_at_unkey(lagging, run, monkeypatch):  # noqa: F811
    """Our books have it still, so the count that lags looks right."""
    monkeypatch.setattr(keys, "STILL_SECONDS", 1.2)

    async def main():
        async with lagging.provider() as provider:
            secret, key = await provider.create("u", credits=100)
            lagging.fail("reset", takes_effect=True, times=1)
            with pytest.raises(CreditsUnavailable):
                await provider.hold(secret.encode(), 10, "/x", "lost")
            await written(provider)
            _, rotated = await provider.rotate(key.key_id)
            assert rotated.available == 90
            lagging.audit({key.key_id: 10})
            (movement,) = await provider.list_movements(unsettled=True)
            await provider.resolve_movement(movement.id, "applied")
            assert (await provider.balance(key.key_id)).available == 100
        lagging.audit({})

    run(main())


def test_a_count_that_goes_on_moving_stops_the_rotation_and_the_old_secret_stays_dead(lagging, run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(keys, "LAG_SECONDS", 0.1)

    async def main():
        async with lagging.provider() as provider:
            secret, key = await provider.create("u", credits=100)
            await spend(provider, secret, 6)
            with pytest.raises(CreditsUnavailable):
                await provider.rotate(key.key_id)
            with pytest.raises(InvalidKey):
                await provider.hold(secret.encode(), 1, "/x", "old")
            await asyncio.sleep(0.8)
            _, rotated = await provider.rotate(key.key_id)
            assert rotated.available == 40
        lagging.audit()

    run(main())


def test_more_than_the_books_say_that_stands_still_does_not_stop_it(tmp_path, run, monkeypatch):  # noqa: F811
    monkeypatch.setattr(keys, "STILL_SECONDS", 0.3)
    ledger = UnkeyLedger(tmp_path / "gateway.db")

    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=10)
            ledger.server.call("keys.updateCredits", {"keyId": key.key_id, "operation": "increment", "value": 5})
            _, rotated = await provider.rotate(key.key_id)
            assert rotated.available == 15

    run(main())


def test_a_secret_is_not_lost_because_the_key_can_not_be_read_back(tmp_path, run):  # noqa: F811
    ledger = UnkeyLedger(tmp_path / "gateway.db")

    async def main():
        async with ledger.provider() as provider:
            ledger.server.faults.set(kind="error", call="getKey")
            secret, key = await provider.create("u", credits=10, permissions=("read",))
            ledger.server.faults.clear()
            assert (key.available, key.enabled, key.permissions) == (10, True, ("read",))
            hold = await provider.hold(secret.encode(), 4, "/x", "r")
            assert (hold.key_id, hold.available) == (key.key_id, 6)
            await provider.settle(hold, 4)
            ledger.server.faults.set(kind="error", call="deleteKey")
            secret, _ = await provider.rotate(key.key_id)
            ledger.server.faults.clear()
            await provider.settle(await provider.hold(secret.encode(), 6, "/x", "r2"), 6)

    run(main())


def test_without_a_canary_a_key_that_unkey_keeps_is_not_called_invalid(tmp_path, run):  # noqa: F811
    from gateway.sandbox.unkey.permissions import RootKey
    from gateway.sandbox.unkey.server import ROOT_KEY

    ledger = UnkeyLedger(tmp_path / "gateway.db")
    ledger.server.database.root_keys["verifier"] = RootKey(("api.*.verify_key",))
    ledger.section = {"root_key": "verifier", "admin_root_key": ROOT_KEY}

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            await provider.settle(await provider.hold(secret.encode(), 1, "/x", "r"), 1)
            ledger.server.database.root_keys["verifier"] = RootKey(("api.*.read_key",))
            for _ in range(3):
                with pytest.raises(CreditsUnavailable):
                    await provider.hold(secret.encode(), 1, "/x", "r2")
            ledger.server.database.root_keys["verifier"] = RootKey(("api.*.verify_key",))
            await provider.settle(await provider.hold(secret.encode(), 1, "/x", "r3"), 1)
            await provider.revoke(key.key_id)
            with pytest.raises(InvalidKey):
                await provider.hold(secret.encode(), 1, "/x", "r4")

    run(main())


def test_a_key_that_would_end_later_than_unkey_can_count_is_refused_by_name(tmp_path, run):  # noqa: F811
    ledger = UnkeyLedger(tmp_path / "gateway.db")

    async def main():
        async with ledger.provider() as provider:
            with pytest.raises(Invalid) as caught:
                await provider.create("u", credits=1, expires_at=4_102_444_800_001)
            assert caught.value.members["errors"].keys() == {"expires_at"}
            _, key = await provider.create("u", credits=1, expires_at=4_102_444_800_000)
            assert key.expires_at == 4_102_444_800_000

    run(main())
