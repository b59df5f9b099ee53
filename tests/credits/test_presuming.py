"""A batch that is decided by what this process knows is written in one round trip, or not at all: whatever others have
changed meanwhile, it is as if it had been read."""

from __future__ import annotations

import asyncio

import pytest

from gateway.credits import store_postgres
from gateway.credits.batch import End, is_plain
from gateway.credits.known_keys import KnownKeys
from gateway.credits.pace import Pace
from gateway.credits.provider import Hold, HoldLost, Policy, RateLimit
from gateway.database.pipeline import Pipeline
from gateway.errors import CreditsUnavailable, InvalidKey, KeyDisabled, OutOfCredits
from tests.credits.conftest import Ledger, until

pytestmark = pytest.mark.pure


class Books(Ledger):
    """Which runs were made, by how their statements begin."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(url)
        self.runs: list[list[str]] = []
        self.wrong = 0
        run, on_wrong = Pipeline.run, KnownKeys.on_wrong

        async def watch(pipeline):
            self.runs.append([statement for statement, _ in pipeline._added])
            return await run(pipeline)

        def count(known):
            self.wrong += 1
            on_wrong(known)

        monkeypatch.setattr(Pipeline, "run", watch)
        monkeypatch.setattr(KnownKeys, "on_wrong", count)

    def sent(self) -> list[str]:
        """Of each run since this was asked last, its first and last word."""
        runs, self.runs = self.runs, []
        return [f"{run[0].split()[0]}…{run[-1].split()[0]}" for run in runs]

    def audit(self) -> None:
        super().audit()
        last: dict[int, int | None] = {}
        for number, key, previous in self.rows("SELECT id, key, previous FROM entries ORDER BY id"):
            assert number > 0
            assert previous == last.get(key), f"entry {number} of key {key}"
            last[key] = number
        assert dict(self.rows("SELECT id, last_entry FROM keys WHERE last_entry IS NOT NULL")) == last


@pytest.fixture
def ledger(postgres, monkeypatch):
    return Books(postgres.create(), monkeypatch)


def scene(ledger, run, story):
    """A provider that has sold to a key before."""

    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            await provider.settle(await provider.hold(secret.encode(), 1, "/x", "first"), 1)
            ledger.sent()
            await story(provider, secret.encode(), key)
        ledger.audit()

    run(main())


ONE = ["BEGIN…COMMIT"]
BACK_TO_TWO = ["BEGIN…COMMIT", "ROLLBACK…ROLLBACK", "BEGIN…SELECT", "INSERT…COMMIT"]


def test_what_is_known_is_written_in_one_round_trip(ledger, run):
    async def story(provider, secret, key):
        for number in range(3):
            hold = await provider.hold(secret, 2, "/x", f"r{number}")
            assert ledger.sent() == ONE
            assert hold.available == 9 - 2 - 2 * number
            await provider.settle(hold, 2)
            assert ledger.sent() == ONE
        assert (await provider.balance(key.key_id)).available == 3
        with pytest.raises(OutOfCredits) as refused:
            await provider.hold(secret, 4, "/x", "r4")
        assert refused.value.members["available"] == 3
        assert ledger.sent() == ONE, "that nothing is left is looked at under the lock too"
        assert ledger.wrong == 0

    scene(ledger, run, story)


def test_a_hold_that_is_kept_and_settled_later_takes_one_round_trip_each(ledger, run):
    async def story(provider, secret, key):
        hold = await provider.hold(secret, 2, "/x", "r")
        await provider.keep(hold)
        assert ledger.rows("SELECT answered FROM holds") == [(1,)]
        await provider.settle(hold, 1)
        assert ledger.sent() == 3 * ONE
        assert (await provider.balance(key.key_id)).available == 8

    scene(ledger, run, story)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("UPDATE keys SET enabled = 0", KeyDisabled),
        ("UPDATE keys SET revoked_at = 5", InvalidKey),
        ("UPDATE keys SET key_hash = sha256('another')", InvalidKey),
        ("UPDATE keys SET balance = held", OutOfCredits),
    ],
    ids=["disabled", "revoked", "rotated", "emptied"],
)
def test_a_key_that_somebody_else_has_changed_is_not_served_as_it_was(ledger, run, change, refusal):
    async def story(provider, secret, key):
        ledger.rows(change)
        with pytest.raises(refusal):
            await provider.hold(secret, 1, "/x", "r")
        assert ledger.sent()[:3] == BACK_TO_TWO[:3]
        assert ledger.wrong == 1
        ledger.rows("UPDATE keys SET balance = (SELECT sum(amount) FROM entries)")  # as the audit wants it

    scene(ledger, run, story)


def test_credits_that_somebody_else_granted_can_be_spent_at_once(ledger, run):
    async def story(provider, secret, key):
        async with ledger.provider() as other:
            await other.grant(key.key_id, 100, "promo", "test", "reference")
            ledger.sent()
            hold = await provider.hold(secret, 50, "/x", "r")
            assert ledger.sent() == BACK_TO_TWO
            assert hold.available == 59
            await provider.settle(hold, 50)

    scene(ledger, run, story)


@pytest.mark.parametrize("how", ["settle", "keep"])
def test_a_hold_that_somebody_else_ended_is_lost(ledger, run, how):
    async def story(provider, secret, key):
        hold = await provider.hold(secret, 3, "/x", "r")
        ledger.rows("DELETE FROM holds")
        ledger.rows("UPDATE keys SET held = 0")
        provider.journal._transaction._store._known.forget()
        await provider.settle(await provider.hold(secret, 1, "/x", "again"), 1)  # so that the row at least is known
        ledger.sent()
        with pytest.raises(HoldLost):
            await (provider.settle(hold, 3) if how == "settle" else provider.keep(hold))
        assert ledger.sent()[0] == ONE[0]
        assert (await provider.balance(key.key_id)).available == 8

    scene(ledger, run, story)


def test_a_route_with_a_limit_is_read_and_not_presumed(ledger, run):
    async def story(provider, secret, key):
        policy = Policy(rate_limit=RateLimit(5, 60_000))
        await provider.release(await provider.hold(secret, 1, "/x", "r", policy), "test")
        assert ledger.sent() == ["BEGIN…SELECT", "SELECT…SELECT", "INSERT…COMMIT", *ONE]

    scene(ledger, run, story)


def test_what_a_batch_that_broke_off_would_have_made_of_its_keys_is_forgotten(ledger, run):
    async def story(provider, secret, key):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store_postgres, "add_changes", lambda *_: 1 / 0)
            with pytest.raises(CreditsUnavailable):
                await provider.hold(secret, 4, "/x", "r1")
        hold = await provider.hold(secret, 1, "/x", "r2")
        assert hold.available == 8
        await provider.settle(hold, 1)

    scene(ledger, run, story)


def test_a_hold_of_a_dead_process_is_looked_at_for_it_may_be_answered_meanwhile():
    hold = Hold(5, 1, "key", "u", 3, 0)
    ends = [End(None, hold, 3, None, 0.0, is_orphan=is_orphan) for is_orphan in (False, True)]
    assert is_plain([], ends[:1])
    assert not is_plain([], ends)


def test_what_is_known_does_not_outlive_its_connection(ledger, run):
    """The next one may lead to a server with another past, restored or promoted, which gives the same versions to other
    rows."""

    async def story(provider, secret, key):
        another, _ = await provider.create("u", credits=10)
        await provider.settle(await provider.hold(another.encode(), 1, "/x", "another"), 1)
        store = provider.journal._transaction._store
        before = store._pipeline
        ledger.rows("SELECT pg_terminate_backend(?)", before._libpq.backend_pid)
        await until(lambda: not before.is_idle)
        ledger.sent()
        await provider.settle(await provider.hold(secret, 1, "/x", "r"), 1)
        assert ledger.sent() == ["BEGIN…SELECT", "INSERT…COMMIT", *ONE]
        assert [row[1] for row in store._known._rows.values()] == [key.key_id]

    scene(ledger, run, story)


def test_with_a_presumption_that_was_wrong_the_journal_does_not_stand_still(ledger, run):
    async def story(provider, secret, key):
        stalled = []
        end = Pace.end

        def watch(pace, *args, **words):
            end(pace, *args, **words)
            stalled.append(provider.journal.is_stalled)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pace, "end", watch)
            ledger.rows("UPDATE keys SET enabled = enabled")
            await provider.release(await provider.hold(secret, 1, "/x", "r"), "test")
        assert ledger.wrong == 1
        assert stalled == [False, False, False]

    scene(ledger, run, story)


def test_two_processes_that_sell_on_one_key_sell_what_there_is_and_soon_stop_presuming(ledger, run):
    async def sell(provider, secret, name):
        try:
            hold = await provider.hold(secret, 1, "/x", name)
        except OutOfCredits:
            return 0
        assert isinstance(hold, Hold)
        if name.endswith("7"):
            await provider.release(hold, "test")
            return 0
        await provider.settle(hold, 1)
        return 1

    async def main():
        async with ledger.patient_provider() as one, ledger.patient_provider() as two:
            secret, key = await one.create("u", credits=300)
            sold = 0
            for turn in range(40):
                names = [(p, f"{p is one}-{turn}-{n}") for n in range(10) for p in (one, two)]
                sold += sum(await asyncio.gather(*(sell(p, secret.encode(), name) for p, name in names)))
            assert sold == 300
            assert (await one.balance(key.key_id)).available == 0
            assert 1 <= ledger.wrong <= 12
        ledger.audit()

    run(main())
