"""What a running gateway shows of itself in the metrics, read when somebody asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

from gateway.config.reload import ReloadState
from gateway.observe.health import Readiness
from gateway.observe.metrics import Metrics
from gateway.observe.shared_counts import Gauge
from gateway.upstreams.upstream import Upstream


def gauges(readiness: Readiness, upstreams: Mapping[str, Upstream], loop: asyncio.AbstractEventLoop) -> Iterator[Gauge]:
    yield "ready", (), int(readiness.ready)
    yield "tasks", (), len(asyncio.all_tasks(loop))
    for upstream in upstreams.values():
        yield from upstream.gauges()


def reload_gauges(state: ReloadState) -> Iterator[Gauge]:
    yield "config_last_reload_success", (), int(state.is_success)
    yield "config_last_reload_timestamp_seconds", (), state.loaded_at
    for result, count in state.counts:
        yield "config_reloads", (result,), count


def commit_counter(metrics: Metrics) -> Callable[[int], None]:
    commits = metrics.counter("database_commits")
    sizes = metrics.histogram("database_batch_size")

    def count(size: int) -> None:
        commits.add()
        sizes.observe(size)

    return count
