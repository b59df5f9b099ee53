"""What /metrics shows, sent to an OpenTelemetry collector in an interval.

The families are read as they are for a scrape: there is one place where is counted, and instruments of the SDK's would
count a second time. Of several workers the one at the first place sends the sum of all (metrics.py), so the numbers are
those of /metrics, and there is one series for a gateway, which goes on when a worker dies.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gateway.observe.exposition import NAMESPACE, Exposition
from gateway.observe.families import FAMILIES, Family
from gateway.observe.metrics import Metrics
from gateway.observe.otlp import MetricSender
from gateway.observe.shared_counts import Numbers, Value

logger = logging.getLogger("gateway.telemetry")

Series = list[tuple[tuple[str, ...], Value]]

_CUMULATIVE = AggregationTemporality.CUMULATIVE


class MetricExport:
    """Watched by Deadlines (it is Expiring). A round that finds the one before still under way is left out: counts are
    sent as sums, so nothing is lost."""

    def __init__(
        self, metrics: Metrics, sender: MetricSender, resource: Resource, scope: InstrumentationScope, interval: float
    ) -> None:
        self.deadline = 0.0
        self._metrics = metrics
        self._sender = sender
        self._resource = resource
        self._scope = scope
        self._interval_seconds = interval
        self._queue: SimpleQueue[Exposition | None] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        # A daemon: a collector that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="metric-export", daemon=True)
        self._thread.start()

    def on_deadline(self, now: float) -> None:
        """The shared tick (Expiring)."""
        self.deadline = now + self._interval_seconds
        if self._idle.is_set():
            self._send()

    def finish(self) -> None:
        """Send the last numbers; after that `join` comes back. On the event loop."""
        self._send()
        self._queue.put(None)

    def join(self) -> None:
        self._thread.join()

    def _send(self) -> None:
        if self._metrics.is_speaker:
            self._idle.clear()
            self._queue.put(self._metrics.exposition())

    def _run(self) -> None:
        while (exposition := self._queue.get()) is not None:
            try:
                self._sender.send(self._document(exposition.numbers()))
            except Exception:  # the next round may go better
                logger.exception("metrics could not be exported")
            self._idle.set()

    def _document(self, numbers: Numbers) -> MetricsData:
        moment = _Moment(int(self._metrics.begun_at * 1e9), time.time_ns())
        metrics = list(_metrics(numbers, moment))
        return MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(self._scope, metrics, "")], "")])


class _Moment:
    """The time that numbers are of: counts since `begun`, gauges at `now`, in nanoseconds."""

    def __init__(self, begun: int, now: int) -> None:
        self.begun = begun
        self.now = now


def _metrics(numbers: Numbers, moment: _Moment) -> Iterator[Metric]:
    series: dict[str, Series] = {}
    for (name, labels), value in (*numbers.counts.items(), *numbers.gauges.items()):
        series.setdefault(name, []).append((labels, value))
    for name, values in series.items():
        family = FAMILIES[name]
        # As OpenTelemetry writes it. Behind a collector, Prometheus shows the names and `_total`s of /metrics.
        unit = "s" if name.endswith("_seconds") else ""
        yield Metric(NAMESPACE + name, family.help, unit, _data(family, values, moment))


def _data(family: Family, series: Series, moment: _Moment) -> Sum | Gauge | Histogram:
    if family.kind == "histogram":
        return Histogram([_histogram(family, labels, value, moment) for labels, value in series], _CUMULATIVE)
    points = [_number(family, labels, value, moment) for labels, value in series]
    return Sum(points, _CUMULATIVE, is_monotonic=True) if family.kind == "counter" else Gauge(points)


def _number(family: Family, labels: tuple[str, ...], value: Value, moment: _Moment) -> NumberDataPoint:
    assert not isinstance(value, list)
    return NumberDataPoint(dict(zip(family.labels, labels, strict=True)), moment.begun, moment.now, float(value))


def _histogram(family: Family, labels: tuple[str, ...], value: Value, moment: _Moment) -> HistogramDataPoint:
    assert isinstance(value, list)
    *counts, total = value
    return HistogramDataPoint(
        attributes=dict(zip(family.labels, labels, strict=True)),
        start_time_unix_nano=moment.begun,
        time_unix_nano=moment.now,
        count=int(sum(counts)),
        sum=total,
        bucket_counts=[int(count) for count in counts],
        explicit_bounds=family.bounds,
        min=None,  # type: ignore[arg-type]  # not known, and optional in the protocol
        max=None,  # type: ignore[arg-type]
    )
