"""A batch that the server reads after somebody has asked what became of it is not done: it would be done twice, or for
a caller who was refused."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from gateway.credits.provider import HoldLost
from gateway.credits.store_postgres import PostgresStore
from gateway.errors import CreditsUnavailable
from tests.credits.conftest import Ledger, until

pytestmark = pytest.mark.pure


@pytest.fixture
def ledger(postgres):
    return Ledger(postgres.create())


def backend(provider):
    return provider.journal._transaction._store._pipeline._libpq.backend_pid


def is_gone(ledger, process):
    return not ledger.rows("SELECT 1 FROM pg_stat_activity WHERE pid = ?", process)


def wake(process):
    with contextlib.suppress(ProcessLookupError):  # it has seen already that its connection is gone
        os.kill(process, signal.SIGCONT)


def test_a_hold_that_is_read_too_late_is_not_taken(ledger, run):
    async def main():
        async with ledger.provider(hold_timeout_seconds=0.5) as provider:
            secret, key = await provider.create("u", credits=10)
            await provider.settle(await provider.hold(secret.encode(), 1, "/x", "first"), 1)
            asleep = backend(provider)
            os.kill(asleep, signal.SIGSTOP)
            try:
                with pytest.raises(CreditsUnavailable):
                    await provider.hold(secret.encode(), 4, "/x", "r1")
                await until(lambda: provider.journal._committing is None)
                assert backend(provider) != asleep
            finally:
                wake(asleep)
            await until(lambda: is_gone(ledger, asleep))  # and has read all that was sent to it
            assert ledger.open_holds() == 0
            assert (await provider.balance(key.key_id)).held == 0
        ledger.audit()

    run(main())


def test_an_end_that_is_read_too_late_is_done_by_the_next_try_and_not_lost(ledger, run, monkeypatch):
    find_out = PostgresStore._find_out
    woken = []

    async def main():
        async with ledger.provider(hold_timeout_seconds=30) as provider:
            secret, key = await provider.create("u", credits=10)
            hold = await provider.hold(secret.encode(), 1, "/x", "r")
            await provider.release(await provider.hold(secret.encode(), 1, "/x", "other"), "test")
            asleep = backend(provider)

            async def late(store):
                is_done = await find_out(store)
                wake(asleep)
                await until(lambda: is_gone(ledger, asleep))  # and has read all that was sent to it
                woken.append(is_done)
                return is_done

            monkeypatch.setattr(PostgresStore, "_find_out", late)
            os.kill(asleep, signal.SIGSTOP)
            try:
                await provider.settle(hold, 1)
            except HoldLost:
                pytest.fail("it was done by a batch of which it was said that it was not")
            finally:
                wake(asleep)
            assert woken == [False]
            assert (await provider.balance(key.key_id)).available == 9
        ledger.audit()

    run(main())
