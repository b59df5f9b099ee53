"""One batch of the journal with two things about one hold."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.credits.batch import End
from gateway.credits.provider import HoldLost
from gateway.credits.unkey.holds import Confirm, UnkeyHold
from gateway.database.failure import DatabaseFailure
from tests.credits.unkey.harness import UnkeyLedger


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request, database_of):
    return UnkeyLedger(database_of(request.param))


async def commit(provider, *ends):
    transaction = provider.journal._open_transaction()
    try:
        await transaction.commit([], list(ends))
    finally:
        transaction.close()


@pytest.mark.parametrize("kept", [5, 0])
@pytest.mark.parametrize("note", [Confirm, End], ids=["confirmed", "answered"])
@pytest.mark.parametrize("first", ["note", "end"])
def test_a_note_and_the_end_of_a_hold_in_one_batch_leave_nothing_held(ledger, run, kept, note, first):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100)
            taken = await provider.hold(secret.encode(), 7, "/x", "r1")
            both = [note(None, taken, None, None, 0), End(None, taken, kept, None, 0)]
            await commit(provider, *(both if first == "note" else reversed(both)))
            assert [end.lost for end in both] == [None, None]
            assert ledger.rows("SELECT balance, held FROM keys") == [(7 - kept, 0)]
            assert ledger.open_holds() == 0
            assert (await provider.balance(key.key_id)).available == 100 - kept
        ledger.audit({})

    run(main())


@pytest.mark.parametrize("beside", ["recovery", "another-end", "confirmation"])
def test_who_marks_a_hold_answered_hears_that_it_is_lost_whatever_is_beside_it(ledger, run, beside):
    """Recovery ends it in the same batch, or somebody had ended it before: its call must not be served."""

    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=100)
            taken = await provider.hold(secret.encode(), 7, "/x", "r1")
            if beside != "recovery":
                await commit(provider, End(None, taken, 0, "gateway died", 0))
            mark = End(None, taken, None, None, 0)
            if beside == "confirmation":
                await commit(provider, mark, Confirm(None, taken, None, None, 0))
            else:
                await commit(provider, mark, End(None, taken, 0, "gateway died", 0, is_orphan=beside == "recovery"))
            assert type(mark.lost) is HoldLost
            assert ledger.rows("SELECT held FROM keys") == [(0,)]

    run(main())


@pytest.mark.pure
@pytest.mark.parametrize("credits", [100, None], ids=["limited", "unlimited"])
def test_recovery_that_looked_before_a_hold_had_its_key_looks_again(ledger, run, credits):
    """Its process was asleep, and writes down that Unkey has granted it between recovery's look and its lock."""

    async def main():
        async with ledger.provider() as provider:
            key_id, secret = ledger.server.create_key(**({} if credits is None else {"credits": credits}))
            taken = await provider.hold(secret.encode(), 7, "/x", "r1")
            await commit(provider, Confirm(None, taken, None, None, 0))
            orphan = UnkeyHold(taken.id, 0, "", "", 7, taken.key_hash)
            transaction = provider.journal._open_transaction()
            read = transaction._store.read
            transaction._store.read = lambda wanted: read(dataclasses.replace(wanted, strays=()))
            with pytest.raises(DatabaseFailure):
                await transaction.commit([], [End(None, orphan, 0, "gateway died", 0, is_orphan=True)])
            transaction.close()
            assert ledger.open_holds() == 1
            await commit(provider, End(None, orphan, 0, "gateway died", 0, is_orphan=True))
            assert ledger.open_holds() == 0
            assert (await provider.balance(key_id)).available == credits
        ledger.audit({})

    run(main())
