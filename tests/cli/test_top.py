"""gateway top: rates and latencies between two looks at the metrics."""

from __future__ import annotations

from gateway.cli.top import quantile, rates_between, read_series, target_rows
from gateway.observe.metrics import Metrics


def series(metrics: Metrics):
    return read_series(metrics.exposition().render()[1].decode())


def test_rates_are_what_was_counted_between_two_looks():
    metrics = Metrics()
    route = metrics.route("/a")
    for _ in range(5):
        route.observe("POST", 200, 0.3, credits_charged=7)
    before = series(metrics)
    for _ in range(90):
        route.observe("POST", 200, 0.02, credits_charged=7)
    for _ in range(10):
        route.observe("POST", 503, 0.9)
    (rate,) = rates_between(before, series(metrics), 2.0)
    metrics.close()
    assert (rate.route, rate.calls_per_second, rate.errors_per_second, rate.credits_per_second) == ("/a", 50, 5, 315)
    assert 10 <= rate.p50_ms <= 25
    assert 500 <= rate.p99_ms <= 1_000


def test_a_gateway_that_was_restarted_counts_from_zero():
    key = ("gateway_requests_total", (("method", "GET"), ("route", "/a"), ("status", "200")))
    (rate,) = rates_between({key: 100.0}, {key: 10.0}, 1.0)
    assert rate.calls_per_second == 10


def test_quantiles_are_prometheus_own():
    inf = float("inf")
    assert quantile(0.5, [(1.0, 5), (2.0, 10), (inf, 10)]) == 1.0
    assert quantile(0.75, [(1.0, 5), (2.0, 10), (inf, 10)]) == 1.5
    assert quantile(0.99, [(1.0, 5), (2.0, 5), (inf, 10)]) == 2.0
    assert quantile(0.5, [(1.0, 0), (inf, 0)]) is None
    assert quantile(0.5, []) is None


def test_each_target_is_shown_as_it_is_and_those_that_get_no_calls_first():
    def target(name, state, in_flight, ejected_for_seconds=0.0, last_error=""):
        return {
            "target": name,
            "weight": 1,
            "state": state,
            "in_flight": in_flight,
            "ejected_for_seconds": ejected_for_seconds,
            "last_error": last_error,
        }

    upstreams = [
        {"name": "a", "targets": [target("http://one", "up", 3), target("http://two", "ejected", 0, 4.2, "reset")]},
        {"name": "b", "targets": [target("http://three", "down", 1, 0.0, "503")]},
    ]
    assert target_rows(upstreams) == [
        ("http://two", "a", "ejected for 5 s", 0, "reset"),
        ("http://one", "a", "up", 3, ""),
        ("http://three", "b", "down", 1, "503"),
    ]
