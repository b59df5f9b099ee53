"""Rate limits in the transaction of the holds: against a model, over processes, with clocks that jump."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from fractions import Fraction
from hashlib import sha256
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.credits import ledger
from gateway.credits.batch import HOLDS, Take, Transaction
from gateway.credits.committer import finish
from gateway.credits.provider import NO_POLICY, Hold, Policy, RateLimit
from gateway.credits.rate_windows import PRUNE_MAX, delete_stale, find_stale
from gateway.credits.store import open_store
from gateway.credits.store_sqlite import _sql_windows
from gateway.database.engine import open_database
from gateway.errors import Forbidden, OutOfCredits, RateLimited
from tests.credits.conftest import until

SECRETS = ["gw_rich", "gw_other", "gw_poor"]
T0 = 1_700_000_000_123


class Processes:
    """Two processes' transactions on one database, and the clock that both read. Keys: two rich, one with nothing."""

    def __init__(self, path) -> None:
        self.path = path
        self.now = T0
        self.database = open_database(f"sqlite:///{path}")
        with self.database._engine.begin() as connection:
            for secret, granted in zip(SECRETS, (10**9, 10**9, 0), strict=True):
                ledger.insert_key(connection, secret, "u", granted, None, None, ("read", "eu"))
        self.transactions = [self.open(instance) for instance in (1, 2)]

    def open(self, instance):
        store = open_store(self.database, HOLDS, lambda: None, lambda: None)
        return Transaction(store, lambda: instance << 40, now_ms=lambda: self.now)

    def take(self, *asked, process=0):
        """What becomes of (key, route, policy, cost), asked for in one transaction."""
        takes = [
            Take(None, sha256(SECRETS[key].encode()).digest(), cost, route, "r", 0.0, policy)
            for key, route, policy, cost in asked
        ]
        finish(self.transactions[process].commit(takes, []))
        return [take.outcome for take in takes]

    def rows(self):
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(
                "SELECT key, name, window_ms, start, count, previous FROM rate_windows"
            ).fetchall()

    def close(self):
        for transaction in self.transactions:
            transaction.close()
        self.database.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("windows") / "x.db")
    yield processes
    processes.close()


@pytest.fixture
def processes(tmp_path) -> Iterator[Processes]:
    processes = Processes(tmp_path / "x.db")
    yield processes
    processes.close()


def limited(limit, window_seconds=60, **more):
    return Policy(rate_limit=RateLimit(limit, window_seconds, **more))


class Model:
    """The rule as the docs say it, in fractions and a dict of counts by window."""

    def __init__(self, limit: int, length: int) -> None:
        self.limit, self.length = limit, length
        self.at: int | None = None
        self.counts: dict[int, int] = {}

    def allows(self, now: int) -> bool:
        number = now // self.length
        if self.at is None or abs(number - self.at) > 1:
            self.at, self.counts = number, {}
        self.at = max(self.at, number)
        passed = max(Fraction(0), Fraction(now, self.length) - self.at)
        current, before = self.counts.get(self.at, 0), self.counts.get(self.at - 1, 0)
        if current + int(before * (1 - passed)) + 1 > self.limit:
            return False
        self.counts[self.at] = current + 1
        return True


names = count()
LIMITS = [(1, 1), (3, 1), (5, 2), (2, 60)]
steps = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 700),
            st.integers(900, 4_100),
            st.integers(-2_500, 0),
            st.sampled_from([-(10**9), 10**9, -60_000, 120_000, 1_000 - T0 % 1_000]),
        ),
        st.integers(0, 1),
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, len(LIMITS))), min_size=1, max_size=12),
    ),
    max_size=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_what_is_let_through_is_what_the_model_lets_through_whoever_asks_and_whatever_the_clock_does(shared, steps):
    run = next(names)
    shared.now = T0
    models = {(key, at): Model(limit, seconds * 1000) for key in (0, 1) for at, (limit, seconds) in enumerate(LIMITS)}
    policies = [limited(*numbers) for numbers in LIMITS] + [NO_POLICY]
    for pause, process, calls in steps:
        shared.now += pause
        asked = [(key, f"/{run}/{at}", policies[at], 1) for key, at in calls]
        expected = [at == len(LIMITS) or models[key, at].allows(shared.now) for key, at in calls]
        outcomes = shared.take(*asked, process=process)
        assert [isinstance(outcome, Hold) for outcome in outcomes] == expected
        assert all(isinstance(outcome, (Hold, RateLimited)) for outcome in outcomes)


jumps = st.lists(st.one_of(st.integers(-3_000, 3_000), st.integers(-(10**10), 10**10)), min_size=1, max_size=5)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jumps, st.integers(1, 4))
def test_whatever_the_clock_does_who_calls_on_is_served_after_two_windows(shared, jumps, limit):
    call = (0, f"/jumps/{next(names)}", limited(limit, 1), 1)
    shared.now = T0
    for jump in jumps:
        shared.take(*[call] * (limit + 1))
        shared.now += jump
    shared.take(call)
    shared.now += 2_001
    assert isinstance(shared.take(call)[0], Hold)
    shared.now += 2_000
    assert all(isinstance(outcome, Hold) for outcome in shared.take(*[call] * limit))


def test_a_clock_that_is_set_back_by_a_little_gives_nothing_away(processes):
    """Over the beginning of a window, too."""
    call = (0, "/x", limited(5, 60), 1)
    processes.now = T0 - T0 % 60_000 + 5
    assert all(isinstance(outcome, Hold) for outcome in processes.take(*[call] * 5))
    processes.now -= 10
    assert isinstance(processes.take(call)[0], RateLimited)


def test_before_a_window_that_has_begun_already_the_one_before_counts_whole_and_no_more(processes):
    call = (0, "/x", limited(6, 60), 1)
    processes.now = T0 - T0 % 60_000 - 10
    processes.take(*[call] * 3)
    processes.now += 15
    processes.take(call)
    processes.now -= 30_000
    assert [type(outcome) for outcome in processes.take(*[call] * 3)] == [Hold, Hold, RateLimited]


def test_a_limit_counts_for_each_key_route_and_window_apart(processes):
    one = limited(1, 60)
    calls = [(0, "/x", one, 1), (1, "/x", one, 1), (0, "/y", one, 1), (0, "/x", limited(1, 61), 1)]
    named = (0, "/x", limited(1, 60, name="GET /x"), 1)
    assert all(isinstance(outcome, Hold) for outcome in processes.take(*calls, named))
    assert all(isinstance(outcome, RateLimited) for outcome in processes.take(*calls, named))


def test_a_refusal_tells_when_the_window_ends(processes):
    call = (0, "/x", limited(3, 60), 1)
    processes.now = T0 - T0 % 60_000 + 18_001
    *_, refusal = processes.take(*[call] * 4)
    problem = refusal.problem("r")
    assert {name: problem[name] for name in ("limit", "remaining", "reset")} == {
        "limit": 3,
        "remaining": 0,
        "reset": 42,
    }
    assert dict(refusal.headers)[b"retry-after"] == b"42"
    processes.now += 42_000
    assert isinstance(processes.take(call)[0], Hold), "who waits as told is served"


def test_a_call_that_is_refused_by_the_limit_or_before_it_uses_nothing_of_it(processes):
    forbidden = Policy("write", RateLimit(2, 60))
    allowed = Policy("read AND (eu OR us)", RateLimit(2, 60))
    outcomes = processes.take(*[(0, "/x", forbidden, 1)] * 5, *[(0, "/x", allowed, 1)] * 3)
    assert [type(outcome) for outcome in outcomes] == [Forbidden] * 5 + [Hold, Hold, RateLimited]
    assert [row[4:] for row in processes.rows()] == [(2, 0)]


def test_a_call_that_is_refused_for_its_credits_has_used_up_one(processes):
    call = (2, "/x", limited(2, 60), 1)
    assert [type(outcome) for outcome in processes.take(*[call] * 3)] == [OutOfCredits, OutOfCredits, RateLimited]


def test_free_calls_count_too_though_nothing_else_is_written(processes):
    call = (2, "/x", limited(2, 60), 0)
    assert [type(outcome) for outcome in processes.take(*[call] * 3)] == [Hold, Hold, RateLimited]
    assert isinstance(processes.take(call, process=1)[0], RateLimited)


def test_a_commit_that_fails_has_counted_nothing(processes):
    call = (0, "/x", limited(2, 60), 1)
    processes.take((0, "/y", NO_POLICY, 1))
    processes.transactions.append(processes.open(1))  # numbers its holds like the first: SQL refuses
    with pytest.raises(sqlite3.IntegrityError):
        processes.take(call, process=2)
    assert [type(outcome) for outcome in processes.take(*[call] * 3, process=1)] == [Hold, Hold, RateLimited]


def statements(transaction):
    seen = []
    transaction._store._connection.set_trace_callback(seen.append)
    return seen


def test_calls_without_a_policy_cost_no_statement_more(processes):
    plain = (0, "/x", NO_POLICY, 1)
    processes.take(plain)
    seen = statements(processes.transactions[0])
    processes.take(plain, plain)
    assert [statement.split()[0] for statement in seen] == ["BEGIN", "SELECT", "INSERT", "UPDATE", "COMMIT"]
    assert not any("rate_windows" in statement for statement in seen)


def test_only_what_is_counted_takes_the_writers_lock(processes):
    seen = statements(processes.transactions[0])
    processes.take((0, "/x", Policy("read"), 0), (0, "/x", NO_POLICY, 0))
    processes.take((0, "/x", limited(5), 0))
    assert [statement for statement in seen if "BEGIN" in statement] == ["BEGIN", "BEGIN IMMEDIATE"]


def test_a_batch_of_calls_with_policies_costs_two_statements_more_whatever_its_size(processes):
    policy = Policy("read", RateLimit(100, 60))
    calls = [(0, f"/{route}", policy, 1) for route in range(20)]
    processes.take(*calls)
    seen = statements(processes.transactions[0])
    processes.take(*calls, *calls)
    assert len(seen) == 5 + 2


def test_counts_are_found_by_their_primary_key(processes):
    connection = sqlite3.connect(processes.path)
    plan = connection.execute("EXPLAIN QUERY PLAN " + _sql_windows(2), (1, "/x", 1, 2, "/x", 1)).fetchall()
    connection.close()
    (search,) = [row[3] for row in plan if "rate_windows" in row[3] or " r " in row[3]]
    assert search == "SEARCH r USING PRIMARY KEY (key=? AND name=? AND window_ms=?)"


def prune(processes, now):
    with processes.database._engine.begin() as connection:
        stale = find_stale(connection, now)
        if stale:
            delete_stale(connection, stale)


def test_rows_are_deleted_as_soon_as_they_count_for_nothing_and_no_sooner(processes):
    call = (0, "/x", limited(2, 60), 1)
    processes.take(call)
    begun = T0 - T0 % 60_000
    prune(processes, begun + 119_999)
    prune(processes, begun - 119_999)
    assert len(processes.rows()) == 1
    prune(processes, begun + 120_000)
    assert processes.rows() == []
    processes.take(call)
    prune(processes, begun - 120_000)
    assert processes.rows() == []


def test_a_row_that_counts_again_by_the_time_it_would_be_deleted_stays(processes):
    call = (0, "/x", limited(2, 60), 1)
    processes.take(call)
    processes.now += 180_000
    with processes.database._engine.connect() as connection:
        stale = find_stale(connection, processes.now)
    assert len(stale) == 1
    processes.take(call)
    with processes.database._engine.begin() as connection:
        delete_stale(connection, stale)
    assert len(processes.rows()) == 1


def test_the_heart_sees_to_it(ledger, run):
    async def main():
        async with ledger.provider(heartbeat_seconds=0.05) as provider:
            with contextlib.closing(sqlite3.connect(ledger.path)) as connection, connection:
                rows = [(1, f"/{n}", 1000, 0, 1, 0) for n in range(PRUNE_MAX + 5)]
                connection.executemany("INSERT INTO rate_windows VALUES (?, ?, ?, ?, ?, ?)", rows)
            await until(lambda: ledger.count("rate_windows") == 0)
            assert provider.heart.instance

    run(main())
