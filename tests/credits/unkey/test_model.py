"""The unkey provider in two processes against a model that is too simple to be wrong: per key, what was granted, spent,
is held and is lost in doubt. Whatever happens, granted = spent + what Unkey has left + pool + what open holds asked +
what was lost; and where nothing is in doubt any more, the ledger says just what is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from gateway.credits.provider import Hold, HoldLost
from gateway.credits.unkey import keys as unkey_keys
from gateway.credits.unkey.provider import UnkeyProvider
from gateway.errors import CreditsUnavailable, Invalid, InvalidKey, OutOfCredits
from tests.credits.unkey.harness import UnkeyLedger, hold, written

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
PROCESSES = st.sampled_from([0, 1])
MEANWHILE = st.sampled_from(["", "seen", "rotated"])


@pytest.fixture(autouse=True, scope="module")
def unkey_does_not_lag() -> Iterator[None]:
    """Nor does a rotation wait for open holds, whose credits Unkey has taken."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unkey_keys, "STILL_SECONDS", 0)
        patch.setattr(unkey_keys, "QUIET_SECONDS", 0)
        patch.setattr(unkey_keys, "LAG_LOOK_SECONDS", 0.02)
        yield


@dataclass
class Known:
    """A key as the model has it. `name` is what the gateway calls it, `old` are secrets it had."""

    name: str
    secret: str
    granted: int
    old: list[str]
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


@dataclass
class Held:
    """A hold of a process; `is_lost` when that has crashed since."""

    hold: Hold
    key: Known
    process: int
    is_lost: bool = False


class Books(RuleBasedStateMachine):
    """Real holds are kept in a bundle until they end: in lists, for how many there are depends on who was quicker."""

    keys = Bundle("keys")
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.ledger = UnkeyLedger(Path(self.directory.name) / "model.db")
        self.ledger.section = {"verify_timeout_seconds": 30}  # a busy machine must leave no doubt here
        self.runner = asyncio.Runner()
        self.known: list[Known] = []
        self.open: list[Held] = []
        self.doubts: list[Doubt] = []
        self.references: dict[str, tuple[str, int]] = {}
        self.requests = 0
        self.runner.run(self.ledger._start())  # the other side outlives our processes
        self.contexts = [self._context(), self._context()]
        self.providers = [self.runner.run(context.__aenter__()) for context in self.contexts]
        self.well = self.runner.run(self.providers[0].create("well", credits=0))[0]

    def _context(self):
        return self.ledger.provider(heartbeat_seconds=60, hold_timeout_seconds=60)

    # Keys

    @initialize(target=keys, credits=st.integers(0, 50))
    def first_key(self, credits):
        return self.create(credits, 0)

    @rule(target=keys, credits=st.integers(0, 50), process=PROCESSES)
    def create(self, credits, process):
        secret, key = self.runner.run(self.providers[process].create("u", credits=credits))
        self.known.append(Known(key.key_id, secret, credits, []))
        return self.known[-1]

    @rule(target=keys, credits=st.integers(0, 50))
    def make_at_unkey(self, credits):
        key_id, secret = self.ledger.server.create_key(credits=credits)
        self.known.append(Known(key_id, secret, credits, []))
        return self.known[-1]

    @rule(key=keys, process=PROCESSES)
    def rotate(self, key, process):
        self.runner.run(self._rotate(key, process))

    async def _rotate(self, key, process):
        rotated = await self.providers[process].rotate(key.name)
        assert (rotated is not None) == self._is_seen(key)
        if rotated is not None:
            key.old.append(key.secret)
            key.secret = rotated[0]

    # Calls

    async def _ask(self, key, cost, process):
        self.requests += 1
        return await hold(self.providers[process], key.secret, cost, f"r{self.requests}")

    @rule(target=holds, key=keys, cost=st.integers(0, 20), process=PROCESSES)
    def hold(self, key, cost, process):
        if key.available < cost:
            with pytest.raises(OutOfCredits) as refused:
                self.runner.run(self._ask(key, cost, process))
            assert refused.value.members["available"] == key.available
            return []
        taken = self.runner.run(self._ask(key, cost, process))
        assert taken.available == key.available - cost
        return [self._held(taken, key, process)]

    def _held(self, taken, key, process):
        key.held += taken.cost
        self.open.append(Held(taken, key, process))
        return self.open[-1]

    @rule(target=holds, key=keys, costs=st.lists(st.tuples(st.integers(1, 20), PROCESSES), min_size=2, max_size=6))
    def hold_together(self, key, costs):
        """Who is refused may have drawn the allotment meanwhile, so the model only counts."""

        async def take():
            asking = (self._ask(key, cost, process) for cost, process in costs)
            return await asyncio.gather(*asking, return_exceptions=True)

        before, taken = key.available, []
        for (_, process), outcome in zip(costs, self.runner.run(take()), strict=True):
            assert isinstance(outcome, Hold | OutOfCredits), outcome
            if isinstance(outcome, Hold):
                taken.append(self._held(outcome, key, process))
        assert key.available >= 0
        if sum(cost for cost, _ in costs) <= before:
            assert len(taken) == len(costs)
        return taken

    @rule(together=consumes(holds), part=st.integers(0, 20))
    def settle(self, together, part):
        for held in together:
            kept = min(part, held.hold.cost)
            self._end(held, kept, partial(UnkeyProvider.settle, hold=held.hold, cost=kept))

    @rule(together=consumes(holds))
    def release(self, together):
        for held in together:
            self._end(held, 0, partial(UnkeyProvider.release, hold=held.hold, reason="model"))

    def _end(self, held, kept, end):
        async def ending():
            await end(self.providers[held.process])

        if held.is_lost:
            with pytest.raises(HoldLost):
                self.runner.run(ending())
            return
        self.runner.run(ending())
        self.open.remove(held)
        held.key.held -= held.hold.cost
        held.key.spent += kept

    @rule(key=keys, process=PROCESSES)
    def call_with_a_secret_of_old(self, key, process):
        for secret in key.old:
            with pytest.raises(InvalidKey):
                self.runner.run(hold(self.providers[process], secret, 1, "old"))

    # What goes wrong

    @rule(
        target=keys,
        credits=st.integers(1, 50),
        fault=st.sampled_from(FAULTS),
        process=PROCESSES,
        before=MEANWHILE,
        after=MEANWHILE,
    )
    def first_use_while_unkey_fails(self, credits, fault, process, before, after):
        key = self.make_at_unkey(credits)
        self.call_while_unkey_fails(key, 1 + credits // 3, fault, process, before, after)
        return key

    @rule(
        key=keys,
        cost=st.integers(0, 20),
        fault=st.sampled_from(FAULTS),
        process=PROCESSES,
        before=MEANWHILE,
        after=MEANWHILE,
    )
    def call_while_unkey_fails(self, key, cost, fault, process, before, after):
        """Before Unkey hears of it, and before its answer is lost, the other process may do something."""
        provider, taken = self.providers[process], 0
        verify = provider._client.verify

        async def fail(*args, **options):
            nonlocal taken
            await self._meanwhile(key, 1 - process, before)
            unkey_id = self._unkey_id(key)
            there = self.ledger.remaining(unkey_id)
            self.ledger.fail(**fault, times=1)
            try:
                return await verify(*args, **options)
            finally:
                taken = there - self.ledger.remaining(unkey_id)
                await self._meanwhile(key, 1 - process, after)

        provider._client.verify = fail
        request_id = f"r{self.requests + 1}"
        with pytest.raises(CreditsUnavailable):
            self.runner.run(self._ask(key, cost, process))
        provider._client.verify = verify
        self.runner.run(self._settled_down())
        self._doubt(request_id, key, taken)
        self.runner.run(hold(provider, self.well, 0, "well"))  # it is well again, and the breaker knows

    async def _meanwhile(self, key, process, what):
        if what:
            with contextlib.suppress(OutOfCredits):  # the other call may have drawn the last ones
                taken = await self._ask(key, min(1, key.available), process)
                await self.providers[process].settle(taken, taken.cost)
                key.spent += taken.cost
        if what == "rotated":
            await self._rotate(key, process)

    def _doubt(self, request_id, key, taken):
        rows = self.ledger.rows("SELECT amount FROM doubts WHERE request_id = ?", request_id)
        amount = sum(row[0] for row in rows)
        assert taken in {0, amount}
        key.lost += taken
        if amount:
            self.doubts.append(Doubt(request_id, key, amount, bool(taken)))

    @rule()
    def time_passes(self):
        """Holds that have been open for a while are written down as granted."""

        async def wait():
            async with asyncio.timeout(20):
                while self.ledger.rows("SELECT 1 FROM unkey_holds WHERE asked > 0"):
                    await asyncio.sleep(0.01)

        self.runner.run(wait())

    @rule(process=PROCESSES)
    def crash_and_restart(self, process):
        """The process vanishes. Of what it had asked and not written the answer to, nobody knows what was taken."""
        lost = [held for held in self.open if held.process == process and held.hold.cost]
        self.runner.run(self.contexts[process].__aexit__(None, None, None))
        unconfirmed = dict(self.ledger.rows("SELECT id, asked FROM unkey_holds WHERE asked > 0"))
        requests = dict(self.ledger.rows("SELECT id, request_id FROM unkey_holds"))
        self.contexts[process] = self._context()
        self.providers[process] = self.runner.run(self.contexts[process].__aenter__())
        self.runner.run(self._settled_down())
        for held in lost:
            held.is_lost = True
            self.open.remove(held)
            held.key.held -= held.hold.cost
            if held.hold.id in unconfirmed:
                self._doubt(requests[held.hold.id], held.key, unconfirmed[held.hold.id])

    async def _settled_down(self):
        for provider in self.providers:
            await written(provider)

    # Money

    @rule(key=keys, amount=st.integers(1, 30), reference=st.sampled_from("abcdef"), process=PROCESSES)
    def grant(self, key, amount, reference, process):
        done = self.references.get(reference)
        if done not in {None, (key.name, amount)} or not self._is_seen(key):
            return
        self.runner.run(self.providers[process].grant(key.name, amount, "purchase", "model", reference))
        if done is None:
            self.references[reference] = (key.name, amount)
            key.granted += amount

    @rule(number=st.integers(0, 1_000), process=PROCESSES)
    def resolve_a_doubt(self, number, process):
        """A person says what is true."""
        if self.doubts:
            self._resolve(self.doubts[number % len(self.doubts)], process)

    @rule(process=PROCESSES)
    def resolve_every_doubt(self, process):
        for doubt in self.doubts.copy():
            self._resolve(doubt, process)

    def _resolve(self, doubt, process):
        provider = self.providers[process]
        movements = self.runner.run(provider.list_movements(unsettled=True, limit=1_000))
        (found,) = (movement for movement in movements if movement.reference == doubt.request_id)
        resolving = provider.resolve_movement(found.id, "applied" if doubt.taken else "not-applied")
        if doubt.taken and not self._is_seen(doubt.key):
            with pytest.raises(Invalid):
                self.runner.run(resolving)
            return
        self.runner.run(resolving)
        self.doubts.remove(doubt)
        if doubt.taken:
            doubt.key.lost -= doubt.amount

    # What must hold

    def _is_seen(self, key: Known) -> bool:
        return bool(self.ledger.rows("SELECT 1 FROM keys WHERE key_id = ?", key.name))

    def _unkey_id(self, key: Known) -> str:
        rows = self.ledger.rows("SELECT unkey_id FROM keys WHERE key_id = ?", key.name)
        return rows[0][0] if rows else key.name

    @invariant()
    def books_balance(self):
        self.runner.run(self._settled_down())  # who was refused is forgotten in the background
        self.ledger.audit()
        with self.ledger.at_one_moment():
            for key in self.known:
                entries, pool, asked = self._here(key)
                there = self.ledger.remaining(self._unkey_id(key))
                assert key.granted == key.spent + there + pool + asked + key.lost
                if self._is_seen(key) and not any(doubt.key is key for doubt in self.doubts):
                    assert entries == there + pool + asked

    def _here(self, key: Known) -> tuple[int, int, int]:
        """The key's ledger, its pool, and what its open holds have asked and nobody has written down as taken."""
        found = self.ledger.rows(
            """SELECT (SELECT coalesce(sum(amount), 0) FROM entries WHERE key = k.id), balance,
               (SELECT coalesce(sum(asked), 0) FROM unkey_holds h WHERE h.key = k.id OR (h.key = 0 AND h.key_hash IN
                (SELECT k.key_hash UNION SELECT key_hash FROM retired_keys WHERE key = k.id)))
               FROM keys k WHERE key_id = ?""",
            key.name,
        )
        return found[0] if found else (0, 0, 0)

    def teardown(self) -> None:
        for context in self.contexts:
            self.runner.run(context.__aexit__(None, None, None))
        self.runner.run(self.ledger._stop())
        self.runner.close()
        self.directory.cleanup()


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
