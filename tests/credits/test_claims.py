"""A call that comes again is done once: what claims owe, whoever keeps keys and credits, on each database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time

import pytest

from gateway.credits.batch import Transaction
from gateway.credits.ledger import now_ms
from gateway.credits.provider import HoldLost, Policy, RateLimit
from gateway.errors import CreditsUnavailable, Forbidden, InvalidKey, KeyDisabled, KeyExpired, OutOfCredits, RateLimited
from tests.credits.claiming import KEEPERS, ask, claim, ledger_of, records_of, take
from tests.credits.conftest import Ledger, pass_when, until
from tests.credits.unkey.harness import UnkeyLedger

CROWD = 200 if os.environ.get("TORTURE") else 25
"""Of each of two processes."""


@pytest.fixture(params=KEEPERS)
def ledger(request, database_of):
    return ledger_of(request.param, database_of)


def test_a_call_that_runs_is_found_running_and_its_repeat_takes_nothing(ledger, run):
    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            secret, key = await one.create("u", credits=10)
            first = claim()
            hold = await take(one, secret, first)
            assert (hold.cost, first.precedent) == (3, None)
            for provider in (one, two):
                repeat, found = await ask(provider, secret)
                assert (repeat.id, repeat.cost, repeat.key_id, repeat.available) == (0, 0, key.key_id, 7)
                assert (found.fingerprint, found.is_done, found.answer) == (first.fingerprint, False, None)
            assert (await one.balance(key.key_id)).held == 3
            await one.release(hold, "test")
        ledger.audit()

    run(main())


@pytest.mark.parametrize(("cost", "answer"), [(3, b"sealed"), (3, None), (0, b"sealed")])
def test_a_settled_call_is_found_with_its_answer_and_is_not_paid_again(ledger, run, cost, answer):
    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            secret, key = await one.create("u", credits=3)
            first = claim()
            hold = await take(one, secret, first)
            first.answer = answer
            await one.settle(hold, cost, None, first)
            for provider in (one, two):
                repeat, found = await ask(provider, secret)  # also where the credits are used up
                assert (repeat.cost, found.is_done, found.answer) == (0, True, answer)
            balance = await one.balance(key.key_id)
            assert (balance.available, balance.held) == (3 - cost, 0)
        ledger.audit()

    run(main())


@pytest.mark.parametrize("how", ["released", "void", "kept, then void"])
def test_a_call_that_failed_leaves_nothing_so_its_repeat_runs(ledger, run, how):
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=5)
            first = claim()
            hold = await take(provider, secret, first)
            if how == "released":
                await provider.release(hold, "5xx")
            else:
                if how != "void":
                    await provider.keep(hold, first)
                first.is_void = True
                await provider.settle(hold, 0, "client_abort", first)
                assert records_of(ledger) == []
            hold, found = await ask(provider, secret)
            assert (hold.cost, found) == (3, None)
            await provider.settle(hold, 3)
            assert (await provider.balance(key.key_id)).available == 2
        ledger.audit()

    run(main())


def test_an_answer_that_has_begun_is_done_and_gets_its_answer_later(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=5)
            first = claim()
            hold = await take(provider, secret, first)
            await provider.keep(hold, first)
            assert (await ask(provider, secret))[1].is_done
            await provider.settle(hold, 2, None, first)
            _, found = await ask(provider, secret)
            assert (found.is_done, found.answer) == (True, None)
            first.answer = b"sealed"
            await provider.keep_answer(hold, first)
            _, found = await ask(provider, secret)
            assert (found.is_done, found.answer) == (True, b"sealed")
        ledger.audit()

    run(main())


def test_of_a_crowd_of_copies_at_two_processes_one_runs(ledger, run):
    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            secret, key = await one.create("u", credits=1_000)
            wanted = [(provider, claim()) for _ in range(CROWD) for provider in (one, two)]
            taken = await asyncio.gather(*(take(provider, secret, mine) for provider, mine in wanted))
            fresh = [hold for hold, (_, mine) in zip(taken, wanted, strict=True) if mine.precedent is None]
            assert len(fresh) == 1
            assert (await one.balance(key.key_id)).held == 3
            await until(lambda: ledger.count("answers") == 1)
            await one.release(fresh[0], "test")
        ledger.audit()

    run(main())


def test_takeovers_by_a_crowd_at_two_processes_are_one(ledger, run):
    """The record that all of them find is a dead call's."""

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            secret, _ = await one.create("u", credits=1_000)
            await one.release(await take(one, secret, claim()), "test")
            wanted = [(provider, claim()) for _ in range(CROWD) for provider in (one, two)]
            taken = await asyncio.gather(*(take(provider, secret, mine) for provider, mine in wanted))
            fresh = [hold for hold, (_, mine) in zip(taken, wanted, strict=True) if mine.precedent is None]
            assert len(fresh) == 1
            await one.release(fresh[0], "test")
        ledger.audit()

    run(main())


@pytest.mark.pure
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_with_unkey_a_key_has_a_row_before_anything_is_claimed(database_of, run, kind):
    """Its lock is what two claims of the same meet at, also where this process sees the key for the first time."""
    ledger = UnkeyLedger(database_of(kind))

    async def main():
        async with ledger.provider() as one, ledger.provider() as two:
            secret, _ = await one.create("u", credits=10)
            asked, ask_journal = [], two.journal.ask
            two.journal.ask = lambda wanted: asked.append(wanted) or ask_journal(wanted)
            await two.release(await take(two, secret, claim()), "test")
            assert [wanted.number > 0 for wanted in asked if wanted.claim is not None] == [True]

    run(main())


@pytest.mark.pure
def test_ends_and_repeats_in_one_commit_know_of_each_other(ledger, run, monkeypatch):
    """A settlement is queued, and the repeat comes before it is written; the same with a release."""

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=100)
            first, failed = claim("a"), claim("b")
            one, two = await take(provider, secret, first), await take(provider, secret, failed)
            first.answer = b"sealed"
            # While this one is written the others come, and are the next commit.
            entered, go_on = threading.Event(), threading.Event()
            commit, sizes = Transaction.commit, []

            async def commit_later(self, takes, ends):
                entered.set()
                await pass_when(go_on)
                sizes.append((len(takes), len(ends)))
                await commit(self, takes, ends)

            monkeypatch.setattr(Transaction, "commit", commit_later)
            busy = asyncio.ensure_future(take(provider, secret, None, cost=1))
            await until(entered.is_set)
            ends = [provider.settle(one, 3, None, first), provider.release(two, "5xx")]
            asked = [asyncio.ensure_future(ask(provider, secret, name)) for name in "ab"]
            await until(lambda: len(provider.journal._waiting.takes) == len(asked))
            go_on.set()
            (_, done), (hold, nothing) = await asyncio.gather(*asked)
            assert (2, 2) in sizes
            await asyncio.gather(*ends, provider.release(await busy, "test"))
            assert (done.is_done, done.answer) == (True, b"sealed")
            assert (nothing, hold.cost) == (None, 3)
            await provider.release(hold, "test")
            assert (await provider.balance(key.key_id)).available == 97
        ledger.audit()

    run(main())


def test_a_claim_is_known_for_its_time_and_then_new(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=10)
            first = claim(keep_ms=-1)
            hold = await take(provider, secret, first)
            assert (await ask(provider, secret))[1] is not None  # it runs, however old it is
            await provider.settle(hold, 3, None, first)
            hold, found = await ask(provider, secret)
            assert (hold.cost, found) == (3, None)
            await provider.release(hold, "test")
        ledger.audit()

    run(main())


@pytest.mark.parametrize("state", ["revoked", "disabled", "expired", "rotated"])
def test_a_key_that_may_not_call_gets_no_answer_of_former_calls(ledger, run, state):
    async def main():
        async with ledger.provider() as provider:
            expires_at = now_ms() + 2_000 if state == "expired" else None
            secret, key = await provider.create("u", credits=10, expires_at=expires_at)
            first = claim()
            hold = await take(provider, secret, first)
            first.answer = b"sealed"
            await provider.settle(hold, 3, None, first)
            if state == "revoked":
                await provider.revoke(key.key_id)
            elif state == "disabled":
                await provider.enable(key.key_id, False)
            elif state == "rotated":
                await provider.rotate(key.key_id)
            else:
                await until(lambda: now_ms() > expires_at + 10)
            with pytest.raises({"disabled": KeyDisabled, "expired": KeyExpired}.get(state, InvalidKey)):
                await ask(provider, secret)

    run(main())


def test_a_repeat_is_held_by_the_routes_policy(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=10)
            first = claim()
            await provider.settle(await take(provider, secret, first), 3, None, first)
            with pytest.raises(Forbidden):
                await ask(provider, secret, policy=Policy("personas.write"))
            limited = Policy(rate_limit=RateLimit(1, 3600))
            assert (await ask(provider, secret, policy=limited))[1].is_done
            with pytest.raises(RateLimited):
                await ask(provider, secret, policy=limited)

    run(main())


def test_a_call_refused_for_its_credits_leaves_no_record(ledger, run):
    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=2)
            with pytest.raises(OutOfCredits):
                await ask(provider, secret)
            hold, found = await ask(provider, secret, cost=2)
            assert (hold.cost, found) == (2, None)
            await provider.release(hold, "test")

    run(main())


QUICK = {"heartbeat_seconds": 0.05, "dead_after_seconds": 0.3}


def test_the_call_of_a_dead_process_runs_again_once_its_hold_is_released(ledger, run):
    """What the dead one still wants to settle, should it only have been asleep, has no effect any more."""

    async def main():
        async with ledger.provider(**QUICK) as survivor:
            secret, key = await survivor.create("u", credits=10)
            async with ledger.provider(heartbeat_seconds=60) as dead:
                first = claim()
                hold = await take(dead, secret, first)
                if isinstance(ledger, UnkeyLedger):
                    await until(lambda: ledger.rows("SELECT count(*) FROM unkey_holds WHERE asked > 0") == [(0,)])
                found = (await ask(survivor, secret))[1]
                while found is not None:
                    assert not found.is_done
                    await asyncio.sleep(0.05)
                    again = claim()
                    second = await take(survivor, secret, again)
                    found = again.precedent
                first.answer = b"of the dead"
                with pytest.raises(HoldLost):
                    await dead.settle(hold, 3, None, first)
                again.answer = b"of the survivor"
                await survivor.settle(second, 3, None, again)
                assert (await ask(survivor, secret))[1].answer == b"of the survivor"
                await dead.keep_answer(hold, first)
                assert (await ask(survivor, secret))[1].answer == b"of the survivor"
            assert (await survivor.balance(key.key_id)).available == 7
        ledger.audit()

    run(main())


def test_a_call_whose_answer_had_begun_when_its_process_died_is_not_paid_again(ledger, run):
    async def main():
        async with ledger.provider(**QUICK) as survivor:
            secret, key = await survivor.create("u", credits=10)
            async with ledger.provider(heartbeat_seconds=60) as dead:
                first = claim()
                hold = await take(dead, secret, first)
                await dead.keep(hold, first)
                table = "unkey_holds" if isinstance(ledger, UnkeyLedger) else "holds"
                await until(lambda: ledger.count(table) == 0)
                _, found = await ask(survivor, secret)
                assert (found.is_done, found.answer) == (True, None)
            assert (await survivor.balance(key.key_id)).available == 7
        ledger.audit()

    run(main())


def test_a_settlement_that_was_given_up_leaves_no_answer(tmp_path, run):
    """Its caller was told that the call failed. What was to be settled is released when the database is there again."""
    ledger = Ledger(tmp_path / "gateway.db")

    async def main():
        async with ledger.provider(hold_timeout_seconds=0.3) as provider:
            secret, key = await provider.create("u", credits=10)
            first = claim()
            hold = await take(provider, secret, first)
            first.answer = b"sealed"
            blocker = sqlite3.connect(ledger.path, isolation_level=None)
            blocker.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            with pytest.raises(CreditsUnavailable):
                await provider.settle(hold, 3, None, first)
            with pytest.raises(CreditsUnavailable):
                await ask(provider, secret)
            assert time.monotonic() - began < 2
            blocker.execute("ROLLBACK")
            blocker.close()
            await until(lambda: not ledger.open_holds() and not provider.journal.pending)
            hold, found = await ask(provider, secret)
            assert (hold.cost, found) == (3, None)
            await provider.release(hold, "test")
            assert (await provider.balance(key.key_id)).available == 10
        ledger.audit()

    run(main())
