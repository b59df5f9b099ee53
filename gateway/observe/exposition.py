"""Numbers of all workers, as the text that Prometheus reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from gateway.observe.families import FAMILIES, Family
from gateway.observe.shared_counts import Numbers, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gateway.observe.shared_counts import Key

NAMESPACE = "gateway_"

MetricFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Exposition:
    """The numbers at one moment. Rendering takes milliseconds for a hundred routes: any thread may do it.

    `read_everyone` gives each worker's numbers and may be called in that thread.
    """

    def __init__(self, read_everyone: Callable[[], Iterable[Numbers]]) -> None:
        self._read_everyone = read_everyone

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text, in the format that the Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return content_type, encode(registry)

    def numbers(self) -> Numbers:
        """Those of all workers together."""
        return together(self._read_everyone())

    def collect(self) -> Iterator[MetricFamily]:
        """What the Prometheus client's registry asks for."""
        numbers = self.numbers()
        series: dict[str, list[tuple[tuple[str, ...], Value]]] = {name: [] for name in FAMILIES}
        for (name, labels), value in (*numbers.counts.items(), *numbers.gauges.items()):
            series[name].append((labels, value))
        for name, family in FAMILIES.items():
            yield _exposed(NAMESPACE + name, family, sorted(series[name]))


def together(everyone: Iterable[Numbers]) -> Numbers:
    """Counts added up; gauges joined as their family says."""
    total = Numbers()
    for numbers in everyone:
        for key, value in numbers.counts.items():
            total.counts[key] = _sum(total.counts[key], value) if key in total.counts else value
        for key, gauge in numbers.gauges.items():
            total.gauges[key] = _joined(key, total.gauges[key], gauge) if key in total.gauges else gauge
    return total


def _sum(one: Value, other: Value) -> Value:
    if isinstance(one, list) and isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    assert not isinstance(one, list)
    assert not isinstance(other, list)
    return one + other


def _joined(key: Key, one: float, other: float) -> float:
    how = FAMILIES[key[0]].over_workers
    if how == "sum":
        return one + other
    return min(one, other) if how == "min" else max(one, other)


def _exposed(name: str, family: Family, series: list[tuple[tuple[str, ...], Value]]) -> MetricFamily:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
        for labels, value in series:
            assert isinstance(value, list)
            histogram.add_metric(labels, _cumulative(family, value[:-1]), value[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=family.labels)
    for labels, value in series:
        assert not isinstance(value, list)
        metric.add_metric(labels, value)
    return metric


def _cumulative(family: Family, counts: list[float]) -> list[tuple[str, float]]:
    """Buckets as Prometheus wants them: each counts all that is at most its bound."""
    total = 0.0
    buckets = []
    for bound, count in zip((*family.bounds, math.inf), counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == math.inf else repr(float(bound)), total))
    return buckets
