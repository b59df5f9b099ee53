"""The unkey provider against a model that is too simple to be wrong: per key, what was granted, spent, is held and is
lost in doubt. Whatever happens, granted = spent + what Unkey has left + pool + what open holds asked + what was lost.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from gateway.credits.provider import Hold, HoldLost
from gateway.errors import CreditsUnavailable, OutOfCredits
from tests.credits.unkey.harness import UnkeyLedger

EXAMPLES = 300 if os.environ.get("TORTURE") else 8
FAULTS = [
    {"kind": "error"},
    {"kind": "error", "takes_effect": True},
    {"kind": "reset"},
    {"kind": "reset", "takes_effect": True},
    {"kind": "closed", "takes_effect": True},
    {"kind": "limited"},
    {"kind": "malformed", "how": "truncated"},
]


@dataclass
class Known:
    """A key as the model has it. `name` is what the gateway calls it, Unkey what `books` say now."""

    name: str
    secret: str
    granted: int
    spent: int = 0
    held: int = 0
    lost: int = 0
    """Taken there, and in doubt here."""

    @property
    def available(self) -> int:
        return self.granted - self.spent - self.held - self.lost


@dataclass
class Doubt:
    """`taken`: whether Unkey truly took it."""

    request_id: str
    key: Known
    amount: int
    taken: bool


class Books(RuleBasedStateMachine):
    """Real holds are kept in a bundle until they end."""

    keys = Bundle("keys")
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.ledger = UnkeyLedger(Path(self.directory.name) / "model.db")
        self.ledger.section = {"verify_timeout_seconds": 30}  # a busy machine must leave no doubt here
        self.runner = asyncio.Runner()
        self.known: list[Known] = []
        self.crashed: set[int] = set()
        self.doubts: list[Doubt] = []
        self.references: dict[str, tuple[str, int]] = {}
        self.requests = 0
        self.runner.run(self.ledger._start())  # the other side outlives our processes
        self._open()

    def _open(self) -> None:
        self.context = self.ledger.provider(heartbeat_seconds=60, hold_timeout_seconds=60)
        self.provider = self.runner.run(self.context.__aenter__())

    # Keys

    @initialize(target=keys, credits=st.integers(0, 50))
    def first_key(self, credits):
        return self.create(credits)

    @rule(target=keys, credits=st.integers(0, 50))
    def create(self, credits):
        secret, key = self.runner.run(self.provider.create("u", credits=credits))
        self.known.append(Known(key.key_id, secret, credits))
        return self.known[-1]

    @rule(target=keys, credits=st.integers(0, 50))
    def make_at_unkey(self, credits):
        key_id, secret = self.ledger.server.create_key(credits=credits)
        self.known.append(Known(key_id, secret, credits))
        return self.known[-1]

    @rule(key=keys)
    def rotate(self, key):
        async def rotate():
            if not key.held:  # else it would wait for them
                rotated = await self.provider.rotate(key.name)
                if rotated is not None:
                    key.secret = rotated[0]

        self.runner.run(rotate())

    # Calls

    def _next_request(self) -> str:
        self.requests += 1
        return f"r{self.requests}"

    async def _ask(self, key, cost):
        return await self.provider.hold(key.secret.encode(), cost, "/x", self._next_request())

    @rule(target=holds, key=keys, cost=st.integers(0, 20))
    def hold(self, key, cost):
        if key.available < cost:
            with pytest.raises(OutOfCredits) as refused:
                self.runner.run(self._ask(key, cost))
            assert refused.value.members["available"] == key.available
            return multiple()
        hold = self.runner.run(self._ask(key, cost))
        key.held += cost
        assert hold.available == key.available
        return hold, key

    @rule(target=holds, key=keys, costs=st.lists(st.integers(1, 20), min_size=2, max_size=6))
    def hold_together(self, key, costs):
        """Who is refused may have drawn the allotment meanwhile, so the model only counts."""

        async def take():
            return await asyncio.gather(*(self._ask(key, cost) for cost in costs), return_exceptions=True)

        before, taken = key.available, []
        for cost, outcome in zip(costs, self.runner.run(take()), strict=True):
            assert isinstance(outcome, Hold | OutOfCredits), outcome
            if isinstance(outcome, Hold):
                key.held += cost
                taken.append((outcome, key))
        assert key.available >= 0
        if sum(costs) <= before:
            assert len(taken) == len(costs)
        return multiple(*taken)

    @rule(hold=consumes(holds), part=st.integers(0, 20))
    def settle(self, hold, part):
        kept = min(part, hold[0].cost)
        self._end(hold, kept, lambda: self.provider.settle(hold[0], kept))

    @rule(hold=consumes(holds))
    def release(self, hold):
        self._end(hold, 0, lambda: self.provider.release(hold[0], "model"))

    def _end(self, hold_and_key, kept, end):
        hold, key = hold_and_key

        async def ending():
            await end()

        if hold.id in self.crashed:
            try:
                self.runner.run(ending())
            except HoldLost:
                return
            raise AssertionError("a hold of a dead process ended twice")
        self.runner.run(ending())
        key.held -= hold.cost
        key.spent += kept

    @rule(key=keys, cost=st.integers(0, 20), fault=st.sampled_from(FAULTS))
    def call_while_unkey_fails(self, key, cost, fault):
        async def ask():
            self.ledger.fail(**fault)
            try:
                await self._ask(key, cost)
            finally:
                self.ledger.server.faults.clear()

        before = self._remaining(key)
        with pytest.raises(CreditsUnavailable):
            self.runner.run(ask())
        self.runner.run(self._settled_down())
        taken = before - self._remaining(key)
        key.lost += taken
        request_id = f"r{self.requests}"
        amount = sum(row[0] for row in self.ledger.rows("SELECT amount FROM doubts WHERE request_id = ?", request_id))
        assert taken in {0, amount}
        if amount:
            self.doubts.append(Doubt(request_id, key, amount, bool(taken)))
        self.runner.run(self._ask(key, 0))  # it is well again, and the breaker knows

    @rule()
    def time_passes(self):
        """Holds that have been open for a while are written down as granted."""

        async def wait():
            async with asyncio.timeout(20):
                while self.ledger.rows("SELECT 1 FROM unkey_holds WHERE asked > 0 AND key > 0"):
                    await asyncio.sleep(0.01)

        self.runner.run(wait())

    # Money

    @rule(key=keys, amount=st.integers(1, 30), reference=st.sampled_from("abcdef"))
    def grant(self, key, amount, reference):
        done = self.references.get(reference)
        if done not in {None, (key.name, amount)} or not self._is_seen(key):
            return
        self.runner.run(self.provider.grant(key.name, amount, "purchase", "model", reference))
        if done is None:
            self.references[reference] = (key.name, amount)
            key.granted += amount

    @rule(number=st.integers(0, 1_000))
    def resolve_a_doubt(self, number):
        """A person says what is true."""
        if not self.doubts:
            return
        doubt = self.doubts.pop(number % len(self.doubts))
        movements = self.runner.run(self.provider.list_movements(unsettled=True, limit=1_000))
        (found,) = (movement for movement in movements if movement.reference == doubt.request_id)
        self.runner.run(self.provider.resolve_movement(found.id, "applied" if doubt.taken else "not-applied"))
        if doubt.taken:
            doubt.key.lost -= doubt.amount

    @rule()
    def crash_and_restart(self):
        """The process vanishes. Of what it had asked and not written the answer to, nobody knows what was taken."""
        rows = self.ledger.rows("SELECT id, asked, request_id FROM unkey_holds")
        by_request = {row[2]: row for row in rows}
        self.runner.run(self.context.__aexit__(None, None, None))
        self._open()
        self.runner.run(self._settled_down())
        self.crashed |= {row[0] for row in rows}
        for request_id, amount, unkey_id, name in self.ledger.rows(
            "SELECT d.request_id, amount, k.unkey_id, k.key_id FROM doubts d JOIN keys k"
            " ON k.id = d.key OR (d.key = 0 AND k.key_hash = d.key_hash)"
        ):
            if request_id in by_request:
                assert by_request[request_id][1] == amount
                key = next(key for key in self.known if key.name in {unkey_id, name})
                key.lost += amount
                self.doubts.append(Doubt(request_id, key, amount, taken=True))
        for key in self.known:
            key.held = 0

    async def _settled_down(self):
        async with asyncio.timeout(20):
            while self.provider.journal.pending or self.provider._spending._left:
                await asyncio.sleep(0.001)

    # What must hold

    def _is_seen(self, key: Known) -> bool:
        return bool(self.ledger.rows("SELECT 1 FROM keys WHERE key_id = ?", key.name))

    def _remaining(self, key: Known) -> int:
        rows = self.ledger.rows("SELECT unkey_id FROM keys WHERE key_id = ?", key.name)
        return self.ledger.remaining(rows[0][0] if rows else key.name)

    @invariant()
    def books_balance(self):
        self.runner.run(self._settled_down())  # who was refused is forgotten in the background
        self.ledger.audit()
        with self.ledger.at_one_moment():
            for key in self.known:
                pool, asked = self._here(key)
                assert key.granted == key.spent + self._remaining(key) + pool + asked + key.lost

    def _here(self, key: Known) -> tuple[int, int]:
        """The key's pool, and what its open holds have asked and nobody has written down as taken."""
        found = self.ledger.rows("SELECT id, balance, key_hash FROM keys WHERE key_id = ?", key.name)
        if not found:
            return 0, 0
        ((number, pool, key_hash),) = found
        mine = "SELECT coalesce(sum(asked), 0) FROM unkey_holds WHERE key = ? OR (key = 0 AND key_hash = ?)"
        ((asked,),) = self.ledger.rows(mine, number, key_hash)
        return pool, asked

    def teardown(self) -> None:
        self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.run(self.ledger._stop())
        self.runner.close()
        self.directory.cleanup()


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
