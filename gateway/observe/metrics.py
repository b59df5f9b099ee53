"""Metrics in the Prometheus format, right over all workers, cheap enough to count every call.

The hot path adds to plain integers and lists that one thread owns: no lock, no label look-up, no object per call.
Once a second, and before every scrape, a worker writes its numbers where the others find them (shared_counts.py);
whichever worker is scraped adds up those of all. What was shown once is therefore on file, and no counter goes
back: a worker killed between two writes takes at most its last second's counts with it, unseen.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter as Counts
from collections import defaultdict
from typing import TYPE_CHECKING

from gateway.observe.accumulators import Counter, Histogram, RouteMetrics
from gateway.observe.exposition import Exposition, together
from gateway.observe.families import FAMILIES
from gateway.observe.shared_counts import Numbers, SharedCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from gateway.observe.shared_counts import Gauge, Key, Value

logger = logging.getLogger(__name__)


class Metrics:
    """All metrics of one worker. `directory` is shared by the workers; None where there is only this process.

    Watched by Deadlines (it is Expiring): the numbers are shared once every `flush_seconds`.
    """

    def __init__(self, directory: Path | None = None, *, flush_seconds: float = 1.0) -> None:
        self.deadline = 0.0
        self._flush_seconds = flush_seconds
        self._shared = SharedCounts(directory) if directory is not None else None
        self._flush_failed = False
        self.begun_at = time.time() if self._shared is None else self._shared.begun_at
        """Since when is counted, by all workers."""
        self.place = str(directory or os.getpid())
        """What the workers that count together have in common."""
        self._routes: dict[str, RouteMetrics] = {}
        self._counters: dict[Key, Counter] = {}
        self._histograms: dict[Key, Histogram] = {}
        self._refusals: dict[str, int] = defaultdict(int)
        self._refusals_elsewhere: list[Mapping[str, int]] = []
        self._gauge_readers: list[Callable[[], Iterable[Gauge]]] = []
        self.flush()

    def route(self, name: str) -> RouteMetrics:
        """The accumulator of a route, by its name in the configuration. Get it at load, not per call."""
        if name not in self._routes:
            self._routes[name] = RouteMetrics(
                self.histogram("overhead_seconds"), self.histogram("verify_duration_seconds")
            )
        return self._routes[name]

    def refuse(self, slug: str) -> None:
        """Count a call that the gateway itself answered with a problem (errors.py)."""
        self._refusals[slug] += 1

    def add_refusals(self, counts: Mapping[str, int]) -> None:
        """Count those too that somebody else counts, by slug. Looked at whenever the numbers are shared."""
        self._refusals_elsewhere.append(counts)

    def counter(self, family: str, *labels: str) -> Counter:
        """The counter of that name in families.py, for these values of its labels."""
        assert FAMILIES[family].kind == "counter"
        return self._counters.setdefault((family, labels), Counter())

    def histogram(self, family: str, *labels: str) -> Histogram:
        """The histogram of that name in families.py, for these values of its labels."""
        assert FAMILIES[family].kind == "histogram"
        return self._histograms.setdefault((family, labels), Histogram(FAMILIES[family].bounds))

    def collect_gauges(self, read: Callable[[], Iterable[Gauge]]) -> None:
        """Ask `read` for gauges, each (family, label values, value), whenever the numbers are shared. Must be cheap."""
        self._gauge_readers.append(read)

    def flush(self) -> None:
        """Share our numbers with the other workers. A full disk is logged once; the next flush makes up for it."""
        if self._shared is None:
            return
        try:
            self._shared.write(self._numbers())
        except OSError as error:
            if not self._flush_failed:
                logger.warning("metrics can't be shared between workers: %s", error)
            self._flush_failed = True
        else:
            self._flush_failed = False

    def on_deadline(self, now: float) -> None:
        """The shared tick (Expiring)."""
        self.deadline = now + self._flush_seconds
        self.flush()

    def exposition(self) -> Exposition:
        """What /metrics says now, for all workers: `metrics.exposition().render(accept)`.

        Taken on the event loop, as all that counts; rendered in any thread.
        """
        self.flush()
        if self._shared is not None:
            return Exposition(self._shared.read_all)
        numbers = self._numbers()
        return Exposition(lambda: [numbers])

    @property
    def is_speaker(self) -> bool:
        """Whether it is ours to tell others the numbers of all workers unasked: of them, one is."""
        return self._shared is None or self._shared.is_first

    def close(self) -> None:
        """Share the last counts and leave: our gauges vanish."""
        if self._shared is not None:
            self.flush()
            self._shared.close()
            self._shared = None

    def _numbers(self) -> Numbers:
        """Ours, on top of what our predecessors had counted."""
        own: dict[Key, Value] = {}
        for name, route in self._routes.items():
            own.update(route.counts(name))
        refusals = Counts(self._refusals)
        for counts in self._refusals_elsewhere:
            refusals.update(counts)
        own.update((("refusals", (slug,)), number) for slug, number in refusals.items())
        own.update((key, counter.value) for key, counter in self._counters.items())
        own.update((key, histogram.numbers) for key, histogram in self._histograms.items())
        before = Numbers(counts=self._shared.inherited) if self._shared is not None else Numbers()
        numbers = together([before, Numbers(counts=own)])
        numbers.gauges["workers", ()] = 1
        for read in self._gauge_readers:
            for family, labels, value in read():
                numbers.gauges[family, labels] = value
        return numbers
