"""A key's first use in doubt: what Unkey took of it is in the key's ledger once, whoever saw the key first.

Whether its credits are in the count that the ledger begins with depends on the order in which Unkey was asked, which is
not the order in which anything was written down here.
"""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from gateway.credits.unkey import keys
from gateway.errors import CreditsUnavailable, Invalid
from tests.credits.conftest import until
from tests.credits.unkey.harness import UnkeyLedger, hold, written

ORDERS = ["taken, in doubt, seen", "taken, seen, in doubt", "seen, taken, in doubt"]
TAKEN_FIRST, SEEN_FIRST = ORDERS[1:]


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request, database_of):
    return UnkeyLedger(database_of(request.param))


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """Unkey's count does not lag here, but where a test says so."""
    monkeypatch.setattr(keys, "STILL_SECONDS", 0)


async def lose(ledger, provider, secret, cost, request_id, *, before=None, after=None, taken=True):
    """A call that Unkey answers, and nobody hears it: `before` it was carried out, and `after` that, there is time."""
    ask = provider._client.verify

    async def verify(*args, **options):
        if before is not None:
            await before()
        try:
            ledger.fail("reset", takes_effect=taken, times=1)
            return await ask(*args, **options)
        finally:
            if after is not None:
                await after()

    provider._client.verify = verify
    with pytest.raises(CreditsUnavailable):
        await hold(provider, secret, cost, request_id)
    provider._client.verify = ask
    await written(provider)


async def see(provider, secret, request_id="seen"):
    """A first call of 5 that goes as it should."""
    await provider.settle(await hold(provider, secret, 5, request_id), 5)


async def first_use(ledger, one, two, order, *, taken=True, made=None):
    """Process one loses a first use of 8, and process two sees the key: the key's id and its secret."""
    key_id, secret = made or ledger.server.create_key(credits=40)

    async def seen():
        await see(two, secret)

    before, after = seen if order == SEEN_FIRST else None, seen if order == TAKEN_FIRST else None
    await lose(ledger, one, secret, 8, "lost", before=before, after=after, taken=taken)
    if order == ORDERS[0]:
        await seen()
    return key_id, secret


async def movement_of(provider, request_id):
    movements = await provider.list_movements(unsettled=True)
    (found,) = (movement for movement in movements if movement.reference == request_id)
    return found


async def resolve(provider, request_id, resolution="applied"):
    return await provider.resolve_movement((await movement_of(provider, request_id)).id, resolution)


async def first_seen(provider, key_id):
    """The entries of what Unkey had, or had taken, before the key was seen; the oldest first."""
    history = await provider.history(key_id)
    return [entry.amount for entry in reversed(history) if (entry.reference or "").startswith("first-seen:")]


@pytest.mark.parametrize("taken", [True, False], ids=["taken", "not-taken"])
@pytest.mark.parametrize("order", ORDERS)
def test_what_a_first_use_took_is_in_the_ledger_once_whatever_came_first(ledger, run, order, taken):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, order, taken=taken)
            resolved = await resolve(two, "lost", "applied" if taken else "not-applied")
            assert (resolved.key_id, resolved.amount, resolved.state) == (
                key_id,
                -8,
                "applied" if taken else "not-applied",
            )
            lacked = taken and order != SEEN_FIRST
            assert await first_seen(two, key_id) == ([32, 8] if lacked else [40])
            assert (await two.balance(key_id)).available == 35
        ledger.audit({})

    run(main())


def test_a_first_use_of_a_key_that_is_not_seen_afterwards_has_no_pool_to_go_to(ledger, run):
    async def main():
        async with ledger.patient_provider() as provider:
            key_id, secret = ledger.server.create_key(credits=40)
            await lose(ledger, provider, secret, 8, "lost")
            assert ((await movement_of(provider, "lost")).key_id) is None
            with pytest.raises(Invalid):
                await resolve(provider, "lost")
            await see(provider, secret)
            await resolve(provider, "lost")
            assert (await provider.balance(key_id)).available == 35
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("order", ORDERS)
def test_a_rotation_since_then_changes_nothing(ledger, run, order):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, order)
            await two.rotate(key_id)
            await resolve(two, "lost")
            assert await first_seen(two, key_id) == ([40] if order == SEEN_FIRST else [32, 8])
            assert (await two.balance(key_id)).available == 35
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("turns", [*itertools.permutations(["before", "after", "known"])], ids="-".join)
def test_several_doubts_of_a_key_balance_in_whatever_order_they_are_resolved(ledger, run, turns):
    """One of 6 from before the key was seen, one of 8 from after it, and one of 4 once the key was known."""

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, secret = ledger.server.create_key(credits=40)

            async def seen():
                await lose(ledger, two, secret, 6, "before")
                await see(two, secret)

            await lose(ledger, one, secret, 8, "after", before=seen)
            await lose(ledger, two, secret, 4, "known")
            await two.rotate(key_id)
            for turn in turns:
                await resolve(two, turn)
                ledger.audit()
            assert sum(await first_seen(two, key_id)) == 40
            assert (await two.balance(key_id)).available == 35
        ledger.audit({})

    run(main())


@pytest.mark.parametrize(("operation", "by_hand", "lacked"), [("increment", 100, [32, 8]), ("decrement", 10, [32])])
def test_what_somebody_did_by_hand_is_written_up_to_the_doubt_at_most_and_stays_in_sight(
    ledger, run, monkeypatch, operation, by_hand, lacked
):
    monkeypatch.setattr(keys, "DRIFT_SECONDS", 0)

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, TAKEN_FIRST)
            ledger.server.call("keys.updateCredits", {"keyId": key_id, "operation": operation, "value": by_hand})
            await resolve(two, "lost")
            assert await first_seen(two, key_id) == lacked
            (drift,) = await two.list_drift()
            assert drift.kept - drift.ledger == (100 if operation == "increment" else 8 - 10)
            if operation == "increment":
                secret, _ = await two.rotate(key_id)
                await lose(ledger, two, secret, 8 + 4, "later")  # 8 of the pool
                await resolve(two, "later")
                assert await first_seen(two, key_id) == lacked

    run(main())


def test_a_grant_that_is_not_sent_yet_is_not_taken_for_what_the_ledger_has(ledger, run):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, TAKEN_FIRST)
            ledger.fail("error", "updateCredits", status=429)
            await two._database.transaction(lambda db: two.grant_in(db, key_id, 100, "purchase", "bought", "order:1"))
            two.kick()
            await until(lambda: ledger.rows("SELECT attempts, state FROM grants") == [(1, "pending")])
            await resolve(two, "lost")
            assert await first_seen(two, key_id) == [32, 8]
        ledger.audit({})

    run(main())


def test_a_grant_in_doubt_is_to_be_resolved_first(ledger, run, monkeypatch):
    """Whether Unkey's count has it, or lacks a first use instead, nobody could tell."""
    monkeypatch.setattr(keys, "LAG_SECONDS", 0)

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, SEEN_FIRST)
            ledger.fail("reset", "updateCredits", takes_effect=True, times=1)
            await two.grant(key_id, 100, "purchase", "bought", "order:1")
            with pytest.raises(CreditsUnavailable):
                await resolve(two, "lost")
            await resolve(two, "order:1")
            await resolve(two, "lost")
            assert await first_seen(two, key_id) == [40]
        ledger.audit({})

    run(main())


def test_an_unlimited_key_lacks_nothing(ledger, run):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, TAKEN_FIRST, made=ledger.server.create_key())
            await resolve(two, "lost")
            assert await first_seen(two, key_id) == []
            assert (await two.balance(key_id)).available is None

    run(main())


@pytest.mark.parametrize("order", [TAKEN_FIRST, SEEN_FIRST])
def test_where_unkey_does_not_answer_nothing_moves_and_it_can_be_said_again(ledger, run, order):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, order)
            before = ledger.rows("SELECT balance, last_entry FROM keys")
            ledger.fail("error", "getKey")
            with pytest.raises(CreditsUnavailable):
                await resolve(two, "lost")
            assert ledger.rows("SELECT balance, last_entry FROM keys") == before
            assert (await movement_of(two, "lost")).state == "in-doubt"
            ledger.server.faults.clear()
            await resolve(two, "lost")
            assert (await two.balance(key_id)).available == 35
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("seen", ["made-here", "not-taken"])
def test_unkey_is_asked_only_where_something_can_be_lacking(ledger, run, seen):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            if seen == "made-here":
                secret, key = await two.create("u", credits=40)
                key_id = key.key_id
                await see(two, secret)
            else:
                key_id, secret = await first_use(ledger, one, two, TAKEN_FIRST, taken=False)
                await resolve(two, "lost", "not-applied")
            await lose(ledger, two, secret, 8, "later")
            ledger.fail("error", "getKey")
            await resolve(two, "later")
            ledger.server.faults.clear()
            assert (await two.balance(key_id)).available == 35
        ledger.audit({})

    run(main())


# Unkey's count and our books, while both move


@pytest.mark.parametrize("order", [TAKEN_FIRST, SEEN_FIRST])
def test_what_unkey_has_not_counted_yet_is_not_taken_for_what_the_ledger_lacks(ledger, run, monkeypatch, order):
    monkeypatch.setattr(keys, "STILL_SECONDS", 0.6)
    monkeypatch.setattr(keys, "LAG_LOOK_SECONDS", 0.05)
    ledger.server.settings.replay_lag_seconds = 0.4

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, secret = await first_use(ledger, one, two, order)
            await see(two, secret, "again")
            assert ledger.server.database.balances.unreplayed(key_id)
            await resolve(two, "lost")
            assert sum(await first_seen(two, key_id)) == 40
        ledger.audit({})

    run(main())


def test_a_count_that_is_still_moving_is_not_believed(ledger, run, monkeypatch):
    monkeypatch.setattr(keys, "STILL_SECONDS", 0.3)
    monkeypatch.setattr(keys, "LAG_LOOK_SECONDS", 0.01)

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, SEEN_FIRST)
            read, late = two._client.get_key, iter(range(60, 0, -1))  # for longer than it has to stand still

            async def read_late(unkey_id):
                key = await read(unkey_id)
                return dataclasses.replace(key, credits=key.credits + next(late, 0))

            two._client.get_key = read_late
            await resolve(two, "lost")
            assert await first_seen(two, key_id) == [40]
        ledger.audit({})

    run(main())


def test_a_count_that_does_not_come_to_rest_is_not_believed(ledger, run, monkeypatch):
    monkeypatch.setattr(keys, "STILL_SECONDS", 60)
    monkeypatch.setattr(keys, "LAG_SECONDS", 0.1)

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, _ = await first_use(ledger, one, two, TAKEN_FIRST)
            with pytest.raises(CreditsUnavailable):
                await resolve(two, "lost")
            assert await first_seen(two, key_id) == [32]
            assert (await movement_of(two, "lost")).state == "in-doubt"
        ledger.audit({key_id: 0})  # what was taken before it was first seen is in none of its entries

    run(main())


@pytest.mark.parametrize("order", [TAKEN_FIRST, SEEN_FIRST])
@pytest.mark.parametrize("moves", ["call", "grant"])
def test_what_moves_between_the_two_books_is_seen(ledger, run, order, moves):
    """A call, or a grant, that begins once our books have been read, and ends before they are written."""

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            key_id, secret = await first_use(ledger, one, two, order)
            read = two._client.get_key

            async def move():
                if moves == "call":
                    await see(two, secret, "meanwhile")
                else:
                    await one.grant(key_id, 50, "purchase", "bought", "order:1")

            async def read_and_move(unkey_id):
                two._client.get_key = read
                if moves == "grant":
                    await move()
                    return await read(unkey_id)
                key = await read(unkey_id)
                await move()
                return key

            two._client.get_key = read_and_move
            await resolve(two, "lost")
            assert sum(await first_seen(two, key_id)) == 40
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("order", [TAKEN_FIRST, SEEN_FIRST])
@pytest.mark.parametrize("known", [True, False], ids=["known", "rotated-away"])
def test_a_call_that_is_asking_unkey_is_waited_for(ledger, run, monkeypatch, order, known):
    """Also one of a process that knows no more of the key than a secret that is rotated away by now."""
    monkeypatch.setattr(keys, "QUIET_SECONDS", 0)

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            made = key_id, secret = ledger.server.create_key(credits=40)

            async def used():
                await first_use(ledger, one, two, order, made=made)

            async def resolved_too_early():
                if not known:
                    await used()
                    await two.rotate(key_id)
                with monkeypatch.context() as patch:
                    patch.setattr(keys, "LAG_SECONDS", 0)
                    with pytest.raises(CreditsUnavailable):
                        await resolve(two, "lost")

            async with ledger.patient_provider() as three:
                if known:
                    await used()
                await lose(ledger, three, secret, 3, "asking", before=resolved_too_early, taken=False)
            await resolve(two, "lost")
            await resolve(two, "asking", "not-applied")
            assert sum(await first_seen(two, key_id)) == 40
        ledger.audit({})

    run(main())
