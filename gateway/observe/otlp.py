"""The way to an OpenTelemetry collector: OTLP over HTTP by OpenTelemetry's SDK, from threads of its own.

Imported only where the config has a section `telemetry`, in the worker, after the fork: threads don't survive one. A
collector that is down, or slow, takes room in a queue that has a bound, and no more: what finds none is dropped and
counted. The environment is not asked for a proxy, a .netrc or headers; of the SDK's own variables only those of TLS
certificates count (OTEL_EXPORTER_OTLP_CERTIFICATE, …).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from gateway.observe.metrics import Metrics

logger = logging.getLogger("gateway.telemetry")

REQUEST_SECONDS = 10.0
"""Longest time for one export, its retries included."""
QUEUE_MAX = 2_048
"""Spans that may wait, those under way included."""
_SDK_HEADERS = ("content-type", "user-agent", "Content-Encoding")
BATCH_MAX = 512
BATCH_SECONDS = 2.0
"""A batch is sent when it is full, or after so long."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where to, and what to say there. The headers are secrets: they are in no text made of this."""

    url: str
    headers: Mapping[str, str] = field(repr=False)

    def exporting(self, path: str, session: Session) -> dict[str, Any]:
        """What both exporters are told: what they are not told they look up in the environment."""
        return {
            "endpoint": self.url.rstrip("/") + path,
            "timeout": REQUEST_SECONDS,
            "compression": Compression.Gzip,
            "session": session,
        }


class Session(requests.Session):
    """Goes to the collector and nowhere else, and says in the log when `what` is not taken, and when it is again."""

    def __init__(self, what: str, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.trust_env = False
        # The SDK says for each try what is said here once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._own_headers = dict(headers)
        self._what = what
        self._problem = ""
        self._said = ""

    def begin(self) -> None:
        self._problem = "it can't be encoded"

    def request(self, *args: Any, **options: Any) -> requests.Response:
        # The SDK's may have some of the environment among them.
        told = options["headers"]
        options["headers"] = {name: told[name] for name in _SDK_HEADERS if name in told} | self._own_headers
        try:
            response = super().request(*args, **options)
        except Exception as error:
            self._problem = type(error).__name__  # its text may quote a header
            raise
        self._problem = "" if 200 <= response.status_code < 300 else f"it answered {response.status_code}"
        return response

    def end(self) -> bool:
        """Whether what was begun was taken. (The SDK takes a redirection for success.)"""
        if self._problem and not self._said:
            logger.warning("the collector does not take %s: %s", self._what, self._problem)
        elif self._said and not self._problem:
            logger.info("the collector takes %s again", self._what)
        self._said = self._problem
        return not self._problem


class CountingExporter(SpanExporter):
    """The SDK's exporter; counts what the collector took and what it did not."""

    def __init__(self, collector: Collector, metrics: Metrics) -> None:
        self.taken = 0
        """Spans that are out of the queue."""
        self._session = Session("spans", collector.headers)
        self._exporter = OTLPSpanExporter(**collector.exporting("/v1/traces", self._session))
        self._exported = metrics.counter("spans", "exported")
        self._refused = metrics.counter("spans", "refused")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._session.begin()
        try:
            result = self._exporter.export(spans)
        finally:
            (self._exported if self._session.end() else self._refused).add(len(spans))
            self.taken += len(spans)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class SpanQueue:
    """Spans on their way to the collector: the SDK's batches, with a bound that is looked at before a span is made."""

    def __init__(self, collector: Collector, metrics: Metrics) -> None:
        self._exporter = CountingExporter(collector, metrics)
        self._no_room = metrics.counter("spans", "no_room")
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=QUEUE_MAX,
            schedule_delay_millis=BATCH_SECONDS * 1000,
            max_export_batch_size=BATCH_MAX,
            export_timeout_millis=REQUEST_SECONDS * 1000,
        )
        self._put = 0

    def has_room(self, count: int) -> bool:
        """Whether so many may be put; if not, they count as dropped."""
        if self.waiting + count <= QUEUE_MAX:
            return True
        self._no_room.add(count)
        return False

    def put(self, span: ReadableSpan) -> None:
        """Never waits. On the event loop."""
        self._put += 1
        self._processor.on_end(span)

    @property
    def waiting(self) -> int:
        return self._put - self._exporter.taken

    def close(self) -> None:
        """Send what waits. May take as long as the collector likes: call it in a thread that nobody waits for."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def give_up(self) -> None:
        """End a `close` that takes too long."""
        self._exporter.shutdown()


class MetricSender:
    """The SDK's exporter of metrics."""

    def __init__(self, collector: Collector) -> None:
        self._session = Session("metrics", collector.headers)
        options = collector.exporting("/v1/metrics", self._session)
        self._exporter = OTLPMetricExporter(**options)

    def send(self, document: MetricsData) -> bool:
        """Whether the collector took it. Waits for it."""
        self._session.begin()
        self._exporter.export(document)
        return self._session.end()

    def give_up(self) -> None:
        self._exporter.shutdown()
