"""OpenTelemetry, where the config asks for it: opened in the worker, flushed and closed in its drain.

Imported only there; nobody else waits for the SDK.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterable

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as sdk_version

from gateway import __version__
from gateway.config.masking import secrets_of
from gateway.config.tree import Config, TelemetrySection
from gateway.credits.secrets import PREFIX
from gateway.deadlines import Deadlines
from gateway.observe.ids import RequestIds, SamplingIds
from gateway.observe.metrics import Metrics
from gateway.observe.otlp import Collector, MetricSender, SpanQueue
from gateway.observe.otlp_metrics import MetricExport
from gateway.observe.redaction import Redaction
from gateway.proxy.spans import Spans

logger = logging.getLogger("gateway.telemetry")

FLUSH_SECONDS = 2.0
"""How long the drain waits for the collector to take what is left."""


class Telemetry:
    """`ids` are those by which calls are sampled; `trace` is told of each call that ended, None without traces."""

    def __init__(self, config: Config, section: TelemetrySection, metrics: Metrics, deadlines: Deadlines) -> None:
        headers = {name: value.get_secret_value() for name, value in section.headers.items()}
        collector = Collector(section.otlp_endpoint, headers)
        resource = Resource(
            {
                "service.name": section.service_name,
                "service.version": __version__,
                "service.instance.id": _instance_id(metrics),
                "telemetry.sdk.language": "python",
                "telemetry.sdk.name": "opentelemetry",
                "telemetry.sdk.version": sdk_version,
            }
        )
        scope = InstrumentationScope("gateway", __version__)
        self._sampling = SamplingIds(section.sample) if section.traces else None
        self.ids: RequestIds = self._sampling or RequestIds()
        self._queue = SpanQueue(collector, metrics) if section.traces else None
        self.trace: Spans | None = None
        if self._queue is not None:
            self.trace = Spans(self._queue, self.ids, Redaction([PREFIX], secrets_of(config)), resource, scope)
        self._sender = MetricSender(collector) if section.metrics else None
        self._export: MetricExport | None = None
        if self._sender is not None:
            interval = section.metrics_interval_seconds
            self._export = MetricExport(metrics, self._sender, resource, scope, interval)
            deadlines.watch(self._export)

    def take(self, config: Config, secrets: Iterable[str]) -> None:
        """Go by this config from now on, as far as that may change, and hide these."""
        if self.trace is not None:
            self.trace.redaction = Redaction([PREFIX], secrets)
        if self._sampling is not None and config.telemetry is not None:
            self._sampling.sample = config.telemetry.sample

    async def aclose(self) -> None:
        """Send what is left, in FLUSH_SECONDS."""
        if self._export is not None:
            self._export.finish()
        if await _within(FLUSH_SECONDS, self._flush):
            return
        left = self._queue.waiting if self._queue is not None else 0
        logger.warning("the collector did not take what was left within %g s: %d spans are lost", FLUSH_SECONDS, left)
        if self._queue is not None:
            self._queue.give_up()
        if self._sender is not None:
            self._sender.give_up()

    def _flush(self) -> None:
        if self._queue is not None:
            self._queue.close()
        if self._export is not None:
            self._export.join()


def _instance_id(metrics: Metrics) -> str:
    """The same for all workers of one gateway, and for no other."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{socket.gethostname()} {metrics.place} {metrics.begun_at}"))


async def _within(seconds: float, work: Callable[[], None]) -> bool:
    """Whether the work was done in time. It is in a thread for which not even the process's end waits."""
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        work()
        with contextlib.suppress(RuntimeError):  # the loop is closed: it was too late
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="telemetry-flush", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await done.wait()
    except TimeoutError:
        return False
    return True
