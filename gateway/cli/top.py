"""top: what a running gateway does, from its own metrics."""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from gateway.cli.admin import Admin, ask
from gateway.cli.options import DEFAULT_CONFIG, AsJson, ConfigFile
from gateway.cli.output import print_json, print_table

Once = Annotated[bool, typer.Option("--once", help="Print one table, over one interval, and end.")]
Interval = Annotated[float, typer.Option("--interval", min=0.1, max=60, metavar="SECONDS", help="Between two looks.")]

Series = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
"""Each sample by its name and its labels."""

UP = "up"
CLEAR = "\x1b[H\x1b[2J"


@dataclass(frozen=True, slots=True)
class RouteRate:
    """A route over one interval. Errors are 5xx answers; latencies are None where nothing was called."""

    route: str
    calls_per_second: float
    errors_per_second: float
    p50_ms: float | None
    p99_ms: float | None
    credits_per_second: float


def top(
    context: typer.Context,
    config: ConfigFile = DEFAULT_CONFIG,
    admin: Admin = None,
    interval: Interval = 1.0,
    once: Once = False,
    as_json: AsJson = False,
) -> None:
    """Show routes, rates, errors, latencies, credits, upstreams and their targets of the running gateway, until Ctrl-C.

    All from its admin listener, which the config names. --json prints one document and ends, as --once does.
    """

    def look() -> tuple[float, Series]:
        response = ask(context, config, admin, "GET", "/metrics", headers={"accept": "text/plain"})
        return time.monotonic(), read_series(response.text)

    before = look()
    while True:
        time.sleep(interval)
        after = look()
        seconds = after[0] - before[0]
        rates = rates_between(before[1], after[1], seconds)
        upstreams = ask(context, config, admin, "GET", "/upstreams").json()["upstreams"]
        if as_json:
            print_json({"seconds": seconds, "routes": [asdict(rate) for rate in rates], "upstreams": upstreams})
            return
        if not once:
            print(CLEAR, end="")
        _print(rates, upstreams, after[1])
        if once:
            return
        sys.stdout.flush()
        before = after


def read_series(text: str) -> Series:
    """The samples of a page in the Prometheus text format."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def rates_between(before: Series, after: Series, seconds: float) -> list[RouteRate]:
    """Each route's rates between two looks, the busiest first. A counter that began anew counts from 0."""
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
    grown = {key: value if value >= 0 else after[key] for key, value in grown.items()}
    calls: dict[str, float] = defaultdict(float)
    errors: dict[str, float] = defaultdict(float)
    charged: dict[str, float] = defaultdict(float)
    buckets: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (name, labels), value in grown.items():
        said = dict(labels)
        route = said.get("route", "")
        if name == "gateway_requests_total":
            calls[route] += value
            errors[route] += value if said["status"].startswith("5") else 0
        elif name == "gateway_credits_charged_total":
            charged[route] += value
        elif name == "gateway_request_duration_seconds_bucket":
            buckets[route].append((float(said["le"]), value))
    rates = [
        RouteRate(
            route,
            round(calls[route] / seconds, 2),
            round(errors[route] / seconds, 2),
            _milliseconds(quantile(0.50, buckets[route])),
            _milliseconds(quantile(0.99, buckets[route])),
            round(charged[route] / seconds, 2),
        )
        for route in calls
    ]
    return sorted(rates, key=lambda rate: (-rate.calls_per_second, rate.route))


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """As Prometheus' histogram_quantile: linear within the bucket; the last bound where it lies beyond all."""
    ordered = sorted(buckets)
    if not ordered or not ordered[-1][1]:
        return None
    wanted = share * ordered[-1][1]
    low, below = 0.0, 0.0
    for bound, count in ordered:
        if count >= wanted:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (wanted - below) / (count - below) if count > below else bound
        low, below = bound, count
    return low


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


def _print(rates: Sequence[RouteRate], upstreams: Sequence[dict[str, Any]], series: Series) -> None:
    total = sum(rate.calls_per_second for rate in rates)
    workers, holds = series.get(("gateway_workers", ()), 0), series.get(("gateway_holds_open", ()), 0)
    ready = "ready" if series.get(("gateway_ready", ())) else "NOT READY"
    print(f"{ready}  {workers:.0f} workers  {total:.1f} calls/s  {holds:.0f} holds open\n")
    numbers = ("CALLS/S", "5XX/S", "P50 MS", "P99 MS", "CREDITS/S")
    rows = [
        (rate.route, rate.calls_per_second, rate.errors_per_second, rate.p50_ms, rate.p99_ms, rate.credits_per_second)
        for rate in rates
    ]
    print_table(("ROUTE", *numbers), rows, right=numbers)
    print()
    connections = ("OPEN", "IDLE", "WAITING")
    lines = [
        (upstream["name"], len(upstream["targets"]), *(upstream["connections"][name.lower()] for name in connections))
        for upstream in upstreams
    ]
    print_table(("UPSTREAM", "TARGETS", *connections), lines, right=("TARGETS", *connections))
    print()
    print_table(
        ("TARGET", "UPSTREAM", "STATE", "IN FLIGHT", "LAST ERROR"), target_rows(upstreams), right=("IN FLIGHT",)
    )


def target_rows(upstreams: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """How each target is, those that get no calls first."""
    return [
        (target["target"], upstream["name"], _state(target), target["in_flight"], target["last_error"])
        for upstream in upstreams
        for target in sorted(upstream["targets"], key=lambda target: target["state"] == UP)
    ]


def _state(target: Mapping[str, Any]) -> str:
    seconds = math.ceil(target["ejected_for_seconds"])
    return f"{target['state']} for {seconds} s" if seconds else str(target["state"])
