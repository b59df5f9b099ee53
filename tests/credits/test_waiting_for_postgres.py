"""The event loop waits for PostgreSQL itself: it serves others meanwhile, however the server keeps it waiting."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from uuid import uuid4

import psycopg
import pytest

from gateway.database.pipeline import Pipeline
from gateway.database.postgres import read_parameters
from gateway.errors import CreditsUnavailable
from tests.credits.conftest import Ledger, until
from tests.database.relay import relay

STILL_SECONDS = 1.0
"""A loop that did not turn for so long was stopped; what hangs here does so for longer."""


@pytest.fixture
def ledger(postgres):
    return Ledger(postgres.create())


@pytest.fixture
def line(ledger):
    """The way to the server."""
    with relay(ledger.url) as line:
        yield line


@contextlib.asynccontextmanager
async def provider_by(line, ledger, **settings):
    """Its journal, and nothing else of it, goes that way."""
    async with ledger.provider(**settings) as provider:
        provider._database._parameters = read_parameters(line.url)
        yield provider


@contextlib.asynccontextmanager
async def turning():
    """The loop is never still meanwhile."""
    loop = asyncio.get_running_loop()
    gaps = [0.0]

    async def turn():
        while True:
            began = loop.time()
            await asyncio.sleep(0.005)
            gaps.append(loop.time() - began)

    turns = asyncio.ensure_future(turn())
    yield
    await asyncio.sleep(0.02)
    turns.cancel()
    assert max(gaps) < STILL_SECONDS, "the loop stood still"


@contextlib.contextmanager
def locked_key(ledger, key):
    """Somebody else's transaction has the key."""
    with psycopg.connect(ledger.url) as other:
        other.execute("SELECT 1 FROM keys WHERE key_id = %s FOR UPDATE", (key.key_id,))
        yield


async def served(provider, secret):
    """A call that is tried until it is served."""
    async with asyncio.timeout(30):
        while True:
            try:
                hold = await provider.hold(secret.encode(), 1, "/x", uuid4().hex)
                return await provider.settle(hold, 1)
            except CreditsUnavailable:
                await asyncio.sleep(0.05)


async def refused(provider, secret):
    """A call is told 503, within the timeout and what a busy machine takes."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(CreditsUnavailable):
        await provider.hold(secret.encode(), 1, "/x", uuid4().hex)
    assert loop.time() - began < 3


def test_while_another_process_has_the_key_the_loop_serves_and_calls_are_refused_in_time(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            ending = await provider.hold(secret.encode(), 4, "/x", "r1")
            with locked_key(ledger, key):
                async with turning():
                    await asyncio.gather(*(refused(provider, secret) for _ in range(3)))
                    settling = provider.settle(ending, 3)
                    await asyncio.sleep(0.3)
                    assert not settling.done()
            await settling
            await served(provider, secret)
            await until(lambda: not ledger.open_holds())
            assert (await provider.balance(key.key_id)).available == 6
        ledger.audit()

    run(main())


@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "connecting"])
def test_while_the_server_does_not_answer_the_loop_serves_and_once_it_does_calls_are_served(
    ledger, line, run, is_connected
):
    async def main():
        loop = asyncio.get_running_loop()
        async with provider_by(line, ledger) as provider:
            secret, _ = await provider.create("u", credits=10)
            if is_connected:
                await served(provider, secret)
            line.hang()
            async with turning():
                for _ in range(2):
                    await refused(provider, secret)
            line.go_on()
            began = loop.time()
            await served(provider, secret)
            assert loop.time() - began < 5
            await until(lambda: not provider.journal.pending)
            assert not ledger.open_holds()
        ledger.audit()

    run(main())


def test_a_connection_that_breaks_while_a_batch_waits_is_one_batch_refused_and_its_ends_are_done(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            ending = await provider.hold(secret.encode(), 4, "/x", "r1")
            with locked_key(ledger, key):
                settling = provider.settle(ending, 3)
                asked = asyncio.ensure_future(provider.hold(secret.encode(), 1, "/x", "r2"))
                await until(lambda: waiting(ledger) == 1)
                await asyncio.to_thread(ledger.rows, END_WAITING)
                await asyncio.sleep(0.05)
            await settling
            with contextlib.suppress(CreditsUnavailable):  # unless it was in the next batch
                await provider.release(await asked, "test")
            await until(lambda: not provider.journal.pending)
            assert (await provider.balance(key.key_id)).available == 7
            assert not ledger.open_holds()
        ledger.audit()

    run(main())


WAITING = " FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
END_WAITING = f"SELECT pg_terminate_backend(pid){WAITING}"


def waiting(ledger):
    return ledger.rows(f"SELECT count(*){WAITING}")[0][0]


def lose_the_next_answer(line, monkeypatch):
    """Of a COMMIT that is done. Then the server hangs."""
    run_all = Pipeline.run

    async def lose(pipeline):
        if pipeline._added[-1][0] != "COMMIT":
            return await run_all(pipeline)
        monkeypatch.setattr(Pipeline, "run", run_all)
        await run_all(pipeline)
        line.hang()
        pipeline.close()
        raise psycopg.OperationalError("the connection is gone")

    monkeypatch.setattr(Pipeline, "run", lose)


@pytest.mark.pure
def test_who_waits_for_an_end_is_told_in_time_though_the_server_is_away_before_it_is_known_what_became_of_it(
    ledger, line, run, monkeypatch
):
    async def main():
        async with provider_by(line, ledger, hold_timeout_seconds=0.5) as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            lose_the_next_answer(line, monkeypatch)
            async with turning(), asyncio.timeout(20):
                await provider.settle(hold, 3)
                await refused(provider, secret)
            assert provider.journal._committing is not None, "it is found out already"
            line.go_on()
            await served(provider, secret)
            assert (await provider.balance(key.key_id)).available == 6
        ledger.audit()

    run(main())


@pytest.mark.parametrize("what", ["answer", "connection", pytest.param("fate", marks=pytest.mark.pure)])
def test_closing_while_it_waits_for_a_server_that_hangs_takes_its_time_and_no_more(
    ledger, line, run, monkeypatch, caplog, what
):
    """It waits for an answer, for a connection, or to find out what became of a commit. Nothing is left behind that
    anybody would hear of, and the instance stays, so that its holds are found."""
    monkeypatch.setattr("gateway.credits.journal.CLOSE_SECONDS", 0.1)
    monkeypatch.setattr("gateway.credits.journal.JOIN_SECONDS", 0.1)

    async def main():
        loop = asyncio.get_running_loop()
        async with provider_by(line, ledger) as provider:
            secret, _ = await provider.create("u", credits=10)
            if what != "connection":
                hold = await provider.hold(secret.encode(), 4, "/x", "r1")
            if what == "fate":
                lose_the_next_answer(line, monkeypatch)
            else:
                line.hang()
            if what == "connection":
                asked = asyncio.ensure_future(provider.hold(secret.encode(), 4, "/x", "r1"))
            else:
                asked = provider.settle(hold, 4)
            await asyncio.sleep(0.2)
            assert provider.journal._committing.is_unsure == (what == "fate")
            connector = provider.journal._transaction._store._connector
            began = loop.time()
        assert loop.time() - began < 1.5, "it waited for the server"
        assert [task for task in asyncio.all_tasks() if task.get_name() == "journal"] == []
        asked.cancel()
        await asyncio.sleep(0)
        return connector

    connector = run(main())
    line.go_on()
    for thread in connector._threads:
        thread.join(30)
        assert not thread.is_alive(), "it waits for more to do"
    gc.collect()
    assert ledger.count("instances") == 1
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_who_is_cancelled_while_its_batch_waits_cancels_no_batch(ledger, run):
    async def main():
        async with ledger.provider(hold_timeout_seconds=30) as provider:
            secret, key = await provider.create("u", credits=10)
            with locked_key(ledger, key):
                calls = [asyncio.ensure_future(provider.hold(secret.encode(), 1, "/x", f"r{n}")) for n in range(3)]
                await until(lambda: waiting(ledger) == 1)
                calls[0].cancel()
                await asyncio.sleep(0.05)
            await asyncio.gather(*[provider.release(await call, "test") for call in calls[1:]])
            await until(lambda: not provider.journal.pending)
            assert not ledger.open_holds()
        ledger.audit()

    run(main())
