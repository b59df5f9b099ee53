"""PostgreSQL that dies, hangs up and comes back: no credit is lost, doubled or stuck. And how often it is asked."""

from __future__ import annotations

import asyncio
import re

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import event

from gateway.credits import store_postgres
from gateway.credits.provider import Hold
from gateway.credits.store_postgres import PostgresStore
from gateway.database.pipeline import Pipeline
from gateway.errors import CreditsUnavailable, GatewayError
from tests.credits.conftest import Ledger, until

RESTARTS = 2


@pytest.fixture
def ledger(postgres):
    return Ledger(postgres.create())


def test_a_server_that_dies_under_load_loses_no_credit_and_charges_no_call_that_was_refused(ledger, postgres, run):
    served: set[str] = set()
    released: set[str] = set()

    async def call(provider, secret, name):
        try:
            hold = await provider.hold(secret, 2, "/x", name)
        except GatewayError:
            released.add(name)
            return
        try:
            await provider.settle(hold, 2)
        except GatewayError:
            released.add(name)
        else:
            served.add(name)

    async def caller(provider, secret, which, stop):
        number = 0
        while not stop.is_set():
            number += 1
            await call(provider, secret, f"{which}-{number}")
            await asyncio.sleep(0.002)

    async def more_are_served():
        before = len(served)
        await until(lambda: len(served) >= before + 20)

    async def main():
        stop = asyncio.Event()
        async with ledger.provider(heartbeat_seconds=0.2, dead_after_seconds=60) as provider:
            secret, key = await provider.create("u", credits=1_000_000)
            callers = [asyncio.create_task(caller(provider, secret.encode(), n, stop)) for n in range(8)]
            for _ in range(RESTARTS):
                await more_are_served()
                await asyncio.to_thread(postgres.restart)
            await more_are_served()
            stop.set()
            await asyncio.gather(*callers)
            await until(lambda: ledger.open_holds() == 0)
            kept = {name for (name,) in ledger.rows("SELECT request_id FROM entries WHERE amount = -2")}
            assert kept == served
            assert (await provider.balance(key.key_id)).available == 1_000_000 - 2 * len(served)
        ledger.audit()

    run(main())


def forget(provider):
    """So that its next batch is read: two round trips."""
    provider.journal._transaction._store._known.forget()


@pytest.mark.pure
@pytest.mark.parametrize("is_done", [True, False], ids=["done", "not-done"])
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "presumed"])
def test_a_commit_whose_answer_is_lost_is_found_out_and_counts_once(ledger, run, monkeypatch, is_read, is_done):
    run_all = Pipeline.run

    async def hang_up(pipeline):
        if pipeline._added[-1][0] != "COMMIT":
            return await run_all(pipeline)
        monkeypatch.setattr(Pipeline, "run", run_all)
        if is_done:
            await run_all(pipeline)
        pipeline.close()
        raise psycopg.OperationalError("the connection is gone")

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            if is_read:
                forget(provider)
            monkeypatch.setattr(Pipeline, "run", hang_up)
            await provider.settle(hold, 3)
            assert [(e.amount, e.request_id) for e in await provider.history(key.key_id) if e.kind == "spend"] == [
                (-3, "r1")
            ]
            await provider.release(await provider.hold(secret.encode(), 1, "/x", "r3"), "test")
            if is_read:
                forget(provider)
            monkeypatch.setattr(Pipeline, "run", hang_up)
            if is_done or not is_read:
                taken = await provider.hold(secret.encode(), 5, "/x", "r2")
                assert isinstance(taken, Hold)
                assert (await provider.balance(key.key_id)).held == 5
                await provider.release(taken, "test")
            else:
                with pytest.raises(CreditsUnavailable):
                    await provider.hold(secret.encode(), 5, "/x", "r2")
            assert (await provider.balance(key.key_id)).available == 7
        ledger.audit()

    run(main())


@pytest.mark.pure
def test_a_batch_that_breaks_off_half_written_leaves_nothing_to_be_sent_with_the_next(ledger, run, monkeypatch):
    add_changes = store_postgres.add_changes

    def break_off(pipeline, table, changes):
        monkeypatch.setattr(store_postgres, "add_changes", add_changes)
        add_changes(pipeline, table, changes)
        raise TypeError("a defect")

    run_all, sent = Pipeline.run, []

    async def watch(pipeline):
        sent.append([statement for statement, _ in pipeline._added])
        return await run_all(pipeline)

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            monkeypatch.setattr(store_postgres, "add_changes", break_off)
            monkeypatch.setattr(Pipeline, "run", watch)
            with pytest.raises(CreditsUnavailable):
                await provider.hold(secret.encode(), 4, "/x", "r1")
            assert sent[1:] == [["ROLLBACK"]]
            await provider.settle(await provider.hold(secret.encode(), 3, "/x", "r2"), 3)
            balance = await provider.balance(key.key_id)
            assert (balance.available, balance.held) == (7, 0)
        ledger.audit()

    run(main())


@pytest.mark.pure
def test_a_batch_that_breaks_off_behind_its_first_half_undoes_it(ledger, run, monkeypatch):
    """That had deleted the hold that was to end."""
    add_changes = store_postgres.add_changes

    def break_off(*_):
        monkeypatch.setattr(store_postgres, "add_changes", add_changes)
        raise TypeError("a defect")

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            monkeypatch.setattr(store_postgres, "add_changes", break_off)
            with pytest.raises(CreditsUnavailable):
                await provider.settle(hold, 4)
            await provider.settle(await provider.hold(secret.encode(), 3, "/x", "r2"), 3)
            ledger.audit()
            await until(lambda: not ledger.open_holds())
            assert [(e.amount, e.request_id) for e in await provider.history(key.key_id) if e.kind == "spend"] == [
                (0, "r1"),
                (-3, "r2"),
            ]
        ledger.audit()

    run(main())


@pytest.mark.pure
def test_a_batch_whose_connection_breaks_between_its_halves_does_not_go_on_with_another(ledger, run, monkeypatch):
    """Where nothing is locked, and no transaction has begun."""
    write = PostgresStore.write

    def break_before(store, changes):
        monkeypatch.setattr(PostgresStore, "write", write)
        store._pipeline.close()
        write(store, changes)

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            forget(provider)
            monkeypatch.setattr(PostgresStore, "write", break_before)
            with pytest.raises(CreditsUnavailable):
                await provider.hold(secret.encode(), 1, "/x", "r2")
            assert ledger.open_holds() == 1
            forget(provider)
            monkeypatch.setattr(PostgresStore, "write", break_before)
            await provider.settle(hold, 3)
            assert (await provider.balance(key.key_id)).available == 7
        ledger.audit()

    run(main())


def test_while_the_server_is_away_calls_are_refused_in_time_and_served_again_soon_after(ledger, postgres, run):
    health: list[bool] = []

    async def main():
        loop = asyncio.get_running_loop()
        async with ledger.provider(heartbeat_seconds=0.5, dead_after_seconds=60) as provider:
            provider.heart._on_health = lambda is_well, _: health.append(is_well)
            secret, _ = await provider.create("u", credits=100)
            hold = await provider.hold(secret.encode(), 1, "/x", "r1")
            await asyncio.to_thread(postgres.halt)
            try:
                for number in range(3):
                    began = loop.time()
                    with pytest.raises(CreditsUnavailable):
                        await provider.hold(secret.encode(), 1, "/x", f"away{number}")
                    assert loop.time() - began < 3  # the promise is 2 s and a tick; a busy machine has some more
                await until(lambda: health[-1:] == [False])
                with pytest.raises(CreditsUnavailable):
                    await provider.settle(hold, 1)  # not served; it is given back as soon as it can be
            finally:
                await asyncio.to_thread(postgres.resume)
            await until(lambda: health[-1:] == [True])
            await until(lambda: ledger.open_holds() == 0)
            await provider.settle(await provider.hold(secret.encode(), 1, "/x", "r2"), 1)
        assert ledger.rows("SELECT sum(amount) FROM entries WHERE kind = 'spend'")[0][0] == -1
        ledger.audit()

    run(main())


ASKED = {
    "balance": lambda provider, key, _: provider.balance(key.key_id),
    "key": lambda provider, key, _: provider.get(key.key_id),
    "key of a secret": lambda provider, _, secret: provider.identify(secret.encode()),
    "page of keys": lambda provider, _, __: provider.list("u"),
    "how many keys": lambda provider, _, __: provider.count_keys("u"),
    "newest page of history": lambda provider, key, _: provider.history(key.key_id),
    "next page of history": lambda provider, key, _: provider.history(key.key_id, before=2),
}


@pytest.mark.parametrize("question", ASKED)
def test_what_is_asked_of_a_key_is_one_way_to_the_server_and_back(ledger, run, question):
    """One statement, and no BEGIN or COMMIT: each would wait for the server once more."""
    statuses = []

    def note(connection, _, statement, *__):
        if re.search("keys|spend_caps|entries", statement):  # what the heart asks, it asks meanwhile
            statuses.append(connection.connection.driver_connection.info.transaction_status)

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10, spend_caps={"day": 5})
            await provider.grant(key.key_id, 5, "promo", "test", "reference:1")
            event.listen(provider._database._engine, "after_cursor_execute", note)
            assert await ASKED[question](provider, key, secret)
            assert statuses == [TransactionStatus.IDLE]

    run(main())
