"""What is kept of calls that are done once is bounded: by time, by size and by number."""

from __future__ import annotations

import pytest

from gateway.credits import answers
from gateway.credits.ledger import now_ms
from gateway.database.tables import holds, unkey_holds
from tests.credits.claiming import KEEPERS, ask, claim, ledger_of, records_of, take
from tests.credits.conftest import until
from tests.credits.unkey.harness import UnkeyLedger


@pytest.fixture(params=KEEPERS)
def ledger(request, database_of):
    return ledger_of(request.param, database_of)


def pruner(ledger, provider, at=0, **limits):
    table = unkey_holds if isinstance(ledger, UnkeyLedger) else holds
    return answers.Pruner(provider._database, table, lambda: now_ms() + at, **limits)


async def fill(provider, secret, records, size=100, keep_ms=60_000):
    """Each is forgotten later than the one before."""
    for number in range(records):
        one = claim(f"{number:03}", keep_ms=keep_ms + number)
        hold = await take(provider, secret, one, cost=1)
        one.answer = b"." * size
        await provider.settle(hold, 1, None, one)


def test_old_records_are_forgotten_in_steps_and_calls_that_run_are_not(ledger, run, monkeypatch):
    monkeypatch.setattr(answers, "PRUNE_MAX", 2)

    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=100)
            await fill(provider, secret, 5)
            running = await take(provider, secret, claim("runs"))
            await pruner(ledger, provider, 59_000).forget()
            assert ledger.count("answers") == 6
            await pruner(ledger, provider, 61_000).forget()
            assert ledger.rows("SELECT done FROM answers") == [(0,)]
            await provider.release(running, "test")
            await pruner(ledger, provider, 61_000).forget()
            assert ledger.count("answers") == 0

    run(main())


def test_of_too_many_bytes_the_oldest_answers_go_and_their_records_stay(ledger, run, monkeypatch):
    monkeypatch.setattr(answers, "PRUNE_MAX", 2)

    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=100)
            await fill(provider, secret, 8)
            await pruner(ledger, provider, answers_max_bytes=800).forget()
            assert [answer is not None for _, answer in records_of(ledger)] == [True] * 8
            await pruner(ledger, provider, answers_max_bytes=350).forget()
            assert [answer is not None for _, answer in records_of(ledger)] == [False] * 5 + [True] * 3
            _, found = await ask(provider, secret, "000")
            assert (found.is_done, found.answer) == (True, None)

    run(main())


def test_of_too_many_records_the_oldest_go(ledger, run, monkeypatch):
    monkeypatch.setattr(answers, "PRUNE_MAX", 2)

    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=100)
            running = await take(provider, secret, claim("runs", keep_ms=0))
            await fill(provider, secret, 8)
            await pruner(ledger, provider, records_max=4).forget()
            left = ledger.rows("SELECT lookup FROM answers ORDER BY lookup")
            assert [bytes(lookup).rstrip(b".") for (lookup,) in left] == [b"005", b"006", b"007", b"runs"]
            await provider.release(running, "test")

    run(main())


def test_a_provider_forgets_what_is_old(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=100)
            await fill(provider, secret, 2, keep_ms=0)
        async with ledger.provider():
            await until(lambda: ledger.count("answers") == 0)

    run(main())
