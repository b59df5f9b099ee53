"""Limits that a process counts for itself: calls of an address in a window, and calls of a key at a time."""

from __future__ import annotations

import pytest

from gateway.config.tree import RateLimitSection
from gateway.errors import RateLimited, TooManyAtOnce
from gateway.proxy import route_limits
from gateway.proxy.headers import HeadReader
from gateway.proxy.route_limits import AddressLimit, Concurrency


class Clock:
    def __init__(self):
        self.ms = 1_000_000

    def __call__(self):
        return self.ms


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limit(clock):
    return AddressLimit(RateLimitSection(limit=3, window_seconds=10), now_ms=clock)


def test_an_address_gets_as_many_calls_as_the_limit_and_another_its_own(limit):
    assert [limit.take("192.0.2.1").remaining for _ in range(3)] == [2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        limit.take("192.0.2.1")
    assert refused.value.members["limit"] == 3
    assert limit.take("192.0.2.2").remaining == 2


def test_calls_come_back_when_the_window_has_slid_over_them(limit, clock):
    for _ in range(3):
        limit.take("192.0.2.1")
    clock.ms += 9_999
    with pytest.raises(RateLimited):
        limit.take("192.0.2.1")
    clock.ms += 10_000
    assert limit.take("192.0.2.1").remaining == 2


def test_addresses_of_one_ipv6_customer_are_one_caller(limit):
    for last in ("1", "2", "ffff:ffff:ffff:ffff"):
        limit.take(f"2001:db8:0:1:{last}" if ":" in last else f"2001:db8:0:1::{last}")
    with pytest.raises(RateLimited):
        limit.take("2001:db8:0:1::4")
    assert limit.take("2001:db8:0:2::1").remaining == 2, "the next /64 is somebody else"


def test_an_ipv4_address_is_the_same_caller_over_ipv6(limit):
    limit.take("192.0.2.1")
    assert limit.take("::ffff:192.0.2.1").remaining == 1
    assert limit.take("::ffff:192.0.2.2").remaining == 2


def test_memory_for_addresses_is_bounded_and_those_who_call_are_kept(limit, monkeypatch):
    monkeypatch.setattr(route_limits, "ADDRESSES_MAX", 100)
    for _ in range(3):
        limit.take("192.0.2.1")
    for number in range(1_000):
        limit.take(f"10.0.{number // 256}.{number % 256}")
        if number % 50 == 0:
            with pytest.raises(RateLimited):
                limit.take("192.0.2.1")
    assert len(limit._windows) == 100
    with pytest.raises(RateLimited):
        limit.take("192.0.2.1")


def test_a_key_has_so_many_calls_at_a_time_and_leaves_nothing_behind():
    concurrency = Concurrency(2)
    concurrency.begin(b"one")
    concurrency.begin(b"one")
    with pytest.raises(TooManyAtOnce):
        concurrency.begin(b"one")
    concurrency.begin(b"other")
    concurrency.end(b"one")
    concurrency.begin(b"one")
    for key in (b"one", b"one", b"other"):
        concurrency.end(key)
    assert not concurrency._running


def test_another_limit_counts_the_calls_that_run_already_and_their_ends():
    old = Concurrency(3)
    for _ in range(3):
        old.begin(b"one")
    new = old.successor(2)
    old.end(b"one")
    with pytest.raises(TooManyAtOnce):
        new.begin(b"one")
    old.end(b"one")
    new.begin(b"one")
    new.end(b"one")
    old.end(b"one")
    assert not new._running


def test_another_limit_counts_the_calls_of_a_window_as_long_and_none_of_another(limit):
    for _ in range(3):
        limit.take("192.0.2.1")
    assert limit.successor(RateLimitSection(limit=5, window_seconds=10)).take("192.0.2.1").remaining == 1
    assert limit.successor(RateLimitSection(limit=5, window_seconds=60)).take("192.0.2.1").remaining == 4


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", [b"198.51.100.9"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", [b"203.0.113.1, 198.51.100.9"], "198.51.100.9"),
        ("10.0.0.1", [b"203.0.113.1", b"198.51.100.9, 10.0.0.2"], "198.51.100.9"),
        ("10.0.0.1", [b"198.51.100.9:4711"], "198.51.100.9"),
        ("10.0.0.1", [b"[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", [b"2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", [b"203.0.113.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [b""], "10.0.0.1"),
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ],
)
def test_the_address_is_the_last_that_is_no_proxy_of_ours(peer, forwarded, address):
    """What stands to its left may be invented by the caller, to be counted as somebody else."""
    heads = HeadReader(("10.0.0.0/8",))
    fields = [(b"host", b"a"), *((b"x-forwarded-for", value) for value in forwarded)]
    head = heads.read(fields, (peer, 4711), "http", keyed=False)
    assert heads.address_of(head, (peer, 4711)) == address
