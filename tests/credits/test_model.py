"""The local provider against a model that is too simple to be wrong: a dict of numbers."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from gateway.credits import ledger
from gateway.credits.provider import Hold, HoldLost
from gateway.errors import OutOfCredits, SpendCapReached
from tests.credits.capping import audit_caps
from tests.credits.conftest import Clock, Ledger

EXAMPLES = 400 if os.environ.get("TORTURE") else 12


@pytest.fixture(autouse=True, scope="module")
def it_is_always_noon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "now_ms", Clock())
        yield


class Books(RuleBasedStateMachine):
    """`available`, `held` and `spent` per key as the model has them; real holds are kept in a bundle until they end. It
    is one day, so what was spent in it is all that was spent."""

    keys = Bundle("keys")
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.directory.name) / "model.db")
        self.runner = asyncio.Runner()
        self.model: dict[str, list[int]] = {}
        self.caps: dict[str, int | None] = {}
        self.crashed: set[int] = set()
        self.references: dict[str, tuple[str, int]] = {}
        self.requests = 0
        self._open()

    def _open(self) -> None:
        self.context = self.ledger.provider(heartbeat_seconds=60)
        self.provider = self.runner.run(self.context.__aenter__())

    @initialize(target=keys, credits=st.integers(0, 50))
    def first_key(self, credits):
        return self.create_key(credits)

    @rule(target=keys, credits=st.integers(0, 50))
    def create(self, credits):
        return self.create_key(credits)

    def create_key(self, credits):
        secret, key = self.runner.run(self.provider.create("u", credits=credits))
        self.model[key.key_id] = [credits, 0, 0]
        self.caps[key.key_id] = None
        return secret, key.key_id

    @rule(key=keys, cap=st.none() | st.integers(0, 60))
    def cap(self, key, cap):
        _, key_id = key
        self.runner.run(self.provider.cap(key_id, {"day": cap}))
        self.caps[key_id] = cap

    @rule(target=holds, key=keys, costs=st.lists(st.integers(1, 20), min_size=1, max_size=8))
    def hold_together(self, key, costs):
        secret, key_id = key
        self.requests += 1

        async def take():
            return await asyncio.gather(
                *(
                    self.provider.hold(secret.encode(), cost, "/x", f"{self.requests}.{n}")
                    for n, cost in enumerate(costs)
                ),
                return_exceptions=True,
            )

        taken = []
        for cost, outcome in zip(costs, self.runner.run(take()), strict=True):
            available, held, spent = self.model[key_id]
            cap = self.caps[key_id]
            if cap is not None and spent + held + cost > cap:
                assert isinstance(outcome, SpendCapReached)
                assert outcome.members["spent"] == spent + held
            elif available >= cost:
                assert isinstance(outcome, Hold)
                assert outcome.available == available - cost
                self.model[key_id] = [available - cost, held + cost, spent]
                taken.append((outcome, key_id))
            else:
                assert isinstance(outcome, OutOfCredits)
        return multiple(*taken)

    @rule(hold=consumes(holds), part=st.integers(0, 20))
    def settle(self, hold, part):
        self._end(hold, min(part, hold[0].cost), lambda: self.provider.settle(hold[0], min(part, hold[0].cost)))

    @rule(hold=consumes(holds))
    def release(self, hold):
        self._end(hold, 0, lambda: self.provider.release(hold[0], "model"))

    def _end(self, hold_and_key, kept, end):
        hold, key_id = hold_and_key

        async def ending():
            await end()

        if hold.id in self.crashed:
            try:
                self.runner.run(ending())
            except HoldLost:
                return
            raise AssertionError("a hold of a dead process ended twice")
        self.runner.run(ending())
        available, held, spent = self.model[key_id]
        self.model[key_id] = [available + hold.cost - kept, held - hold.cost, spent + kept]

    @rule(key=keys, amount=st.integers(1, 30), reference=st.sampled_from("abcdef"))
    def grant(self, key, amount, reference):
        _, key_id = key
        done = self.references.get(reference)
        if done is not None and done != (key_id, amount):
            return
        self.runner.run(self.provider.grant(key_id, amount, "purchase", "model", reference))
        if done is None:
            self.references[reference] = (key_id, amount)
            self.model[key_id][0] += amount

    @rule()
    def crash_and_restart(self):
        """The process vanishes: nothing is signed off, its holds stay behind."""
        before = set(self._open_hold_ids())
        self.runner.run(self.context.__aexit__(None, None, None))
        self._open()
        self.runner.run(self._settled_down())
        self.crashed |= before
        for numbers in self.model.values():
            numbers[0] += numbers[1]
            numbers[1] = 0

    async def _settled_down(self):
        while self.provider.journal.pending:
            await asyncio.sleep(0.001)

    def _open_hold_ids(self):
        connection = sqlite3.connect(self.ledger.path)
        try:
            return [row[0] for row in connection.execute("SELECT id FROM holds")]
        finally:
            connection.close()

    @invariant()
    def books_balance(self):
        audit_caps(self.ledger)
        for key_id, (available, held, spent) in self.model.items():
            key = self.runner.run(self.provider.get(key_id))
            assert (key.available, key.held) == (available, held)
            cap = key.spend_caps.day
            assert (cap and (cap.cap, cap.spent)) == (
                None if self.caps[key_id] is None else (self.caps[key_id], spent + held)
            )

    def teardown(self) -> None:
        self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.close()
        self.directory.cleanup()


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
