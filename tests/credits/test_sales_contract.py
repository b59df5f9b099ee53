"""What every provider owes billing: credits that move inside a sale's own transaction."""

from __future__ import annotations

import asyncio

import pytest

from gateway.credits.provider import Drift
from gateway.errors import Conflict, Invalid
from tests.credits.conftest import Ledger
from tests.credits.unkey.harness import UnkeyLedger


@pytest.fixture(params=["local-sqlite", "local-postgresql", "unkey-sqlite", "unkey-postgresql"])
def ledger(request, database_of):
    provider, kind = request.param.split("-")
    return {"local": Ledger, "unkey": UnkeyLedger}[provider](database_of(kind))


async def grant(provider, key, amount, reference, kind="purchase"):
    await provider._database.transaction(
        lambda db: provider.grant_in(db, key.key_id, amount, kind, "a test", reference)
    )
    provider.kick()
    return await settled(provider, reference)


async def claw(provider, key, amount, reference):
    taken = await provider._database.transaction(
        lambda db: provider.claw_in(db, key.key_id, amount, "a test", reference)
    )
    provider.kick()
    progress = await settled(provider, reference)
    assert progress.state == "applied"
    return taken - progress.shortfall


async def settled(provider, reference):
    for _ in range(500):
        progress = await provider._database.read(lambda db: provider.progress_in(db, reference))
        if progress is None or progress.state in {"applied", "failed"}:
            return progress
        await asyncio.sleep(0.01)
    raise AssertionError(progress)


def test_what_is_granted_in_a_transaction_arrives_once_and_only_if_it_commits(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=10)

            def undone(connection):
                provider.grant_in(connection, key.key_id, 7, "purchase", "a test", "order:0")
                raise LookupError

            with pytest.raises(LookupError):
                await provider._database.transaction(undone)
            assert await settled(provider, "order:0") is None
            for _ in range(3):
                assert (await grant(provider, key, 50, "order:1")).state == "applied"
            assert (await provider.balance(key.key_id)).available == 60
            with pytest.raises(Conflict):
                await grant(provider, key, 51, "order:1")
            entry = (await provider.history(key.key_id))[0]
            assert (entry.kind, entry.amount, entry.reason, entry.reference) == ("purchase", 50, "a test", "order:1")
        ledger.audit()

    run(main())


def test_a_clawback_takes_what_is_there_once_and_never_what_is_held(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100)
            hold = await provider.hold(secret.encode(), 30, "/x", "r1")
            assert [await claw(provider, key, 25, "claw:1") for _ in range(2)] == [25, 25]
            assert (await provider.balance(key.key_id)).available == 45
            assert [await claw(provider, key, 60, "claw:2") for _ in range(2)] == [45, 45]
            assert (await provider.balance(key.key_id)).available == 0
            assert await claw(provider, key, 5, "claw:3") == 0
            await provider.settle(hold, 30)
            balance = await provider.balance(key.key_id)
            assert (balance.available, balance.held) == (0, 0)
            with pytest.raises(Conflict):
                await grant(provider, key, 5, "claw:1")
        ledger.audit()

    run(main())


def test_a_clawback_takes_the_allotment_first(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100)
            await provider.release(await provider.hold(secret.encode(), 30, "/x", "r1"), "test")
            assert await claw(provider, key, 40, "claw:1") == 40
            assert (await provider.balance(key.key_id)).available == 60
            hold = await provider.hold(secret.encode(), 60, "/x", "r2")
            await provider.settle(hold, 60)
        ledger.audit()

    run(main())


def test_a_revoked_unlimited_or_unknown_key_is_told_and_nothing_moves(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            _, revoked = await provider.create("u", credits=10)
            _, unlimited = await provider.create("u", credits=None)
            _, had_it = await provider.create("u", credits=10)
            await grant(provider, had_it, 5, "order:had")
            await provider.revoke(revoked.key_id)
            await provider.revoke(had_it.key_id)
            with pytest.raises(Invalid):
                await grant(provider, revoked, 5, "order:1")
            with pytest.raises(Invalid):
                await provider._database.transaction(
                    lambda db: provider.grant_in(db, "key_none", 5, "purchase", "", "order:2")
                )
            with pytest.raises(Invalid):
                await provider._database.transaction(lambda db: provider.claw_in(db, "key_none", 5, "", "claw:2"))
            try:
                assert (await grant(provider, unlimited, 5, "order:3")).state == "failed"
            except Invalid:
                pass
            assert (await grant(provider, had_it, 5, "order:had")).state == "applied"
        ledger.audit()

    run(main())


@pytest.mark.parametrize("amount", [0, -1, 2**63, 1.5, "10", True, None])
def test_amounts_that_are_no_credits_are_refused_by_name(ledger, run, amount):
    async def main():
        async with ledger.provider() as provider:
            _, key = await provider.create("u", credits=10)
            for move in (grant, claw):
                with pytest.raises(Invalid) as caught:
                    await move(provider, key, amount, "ref")
                assert "amount" in caught.value.members["errors"]

    run(main())


def test_a_ledger_that_its_keeper_does_not_share_is_a_drift(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            await provider.create("u", credits=None)
            await grant(provider, key, 20, "order:1")
            await provider.settle(await provider.hold(secret.encode(), 4, "/x", "r1"), 3)
            assert await provider.list_drift() == []
            if isinstance(ledger, UnkeyLedger):
                ledger.server.database.balances.increment(key.key_id, 6)
            else:
                await provider._database.transaction(
                    lambda db: db.exec_driver_sql("UPDATE keys SET balance = balance + 6 WHERE balance IS NOT NULL")
                )
            assert await provider.list_drift() == [Drift(key.key_id, ledger=27, kept=33)]

    run(main())
