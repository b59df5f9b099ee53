"""How long a target is out, when it is forgiven, how its share grows: by a clock that is told."""

from __future__ import annotations

from typing import cast

from gateway.config.tree import EjectionSection, RetriesSection
from gateway.upstreams.member import Circuit, Member
from gateway.upstreams.retry_budget import RetryBudget
from gateway.upstreams.transport import TargetTransport


def member(**settings: float) -> Member:
    nothing = cast("TargetTransport", None)
    return Member("http://target", 10, nothing, EjectionSection(**settings))  # type: ignore[arg-type]


def test_each_ejection_is_twice_as_long_up_to_the_longest_and_forgiven_in_good_times() -> None:
    target = member(seconds=2, max_seconds=12, window_seconds=10)
    lengths = [target.eject(0, 0) for _ in range(5)]
    assert lengths == [2, 4, 8, 12, 12]
    assert target.eject(0, 1) == 15, "a quarter more by chance at most"
    target.come_back(100)
    for now in range(101, 200):
        target.fade(now, 0.9)
    assert target.eject(200, 0) == 2


def test_a_target_that_can_not_be_connected_to_is_tried_every_three_seconds_at_least() -> None:
    target = member()
    target.fail("refused", unreachable=True)
    assert max(target.eject(0, 1) for _ in range(20)) <= 3
    assert target.is_known_down


def test_a_share_grows_from_a_tenth_to_the_weight_in_the_time_given() -> None:
    target = member(slow_start_seconds=5)
    target.eject(0, 0)
    target.come_back(100)
    shares = []
    for now in (100, 101, 102.5, 104.9, 105):
        target.grow(now)
        shares.append(round(target.share, 1))
    assert shares == [1, 2, 5, 9.8, 10]
    assert target.circuit is Circuit.CLOSED


def test_the_budget_is_a_part_of_the_calls_and_a_minimum() -> None:
    budget = RetryBudget(RetriesSection(budget_percent=20, budget_min_per_second=0), 0)
    assert not budget.take(1_000)
    budget.calls += 100
    assert sum(budget.take(1_000) for _ in range(100)) == 20
    budget.calls += 1_000_000
    assert sum(budget.take(1_000) for _ in range(1_000)) == 100, "a quiet year saves up no storm"
    budget = RetryBudget(RetriesSection(budget_percent=0, budget_min_per_second=2), 0)
    assert sum(budget.take(0) for _ in range(100)) == 20
    assert [budget.take(now) for now in (0.4, 0.5, 0.9, 1.0)] == [False, True, False, True]
