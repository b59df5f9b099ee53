"""The way to a collector: what is sent, what is dropped, and what it may cost."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path
from queue import SimpleQueue

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from gateway.observe import otlp
from gateway.observe.families import FAMILIES, SECONDS
from gateway.observe.metrics import Metrics
from gateway.observe.otlp import QUEUE_MAX, MetricSender, SpanQueue
from gateway.observe.otlp_metrics import MetricExport
from tests.observe.collector import Collector, attributes, points
from tests.observe.test_metrics import Worker, samples
from tests.server.harness import wait_until

KEY = {"X-Key": "of-the-collector-only"}
RESOURCE, SCOPE = Resource({"service.name": "it"}), InstrumentationScope("gateway", "1")


@pytest.fixture
def collector():
    with Collector() as listening:
        yield listening


@pytest.fixture
def metrics():
    return Metrics()


def span(number: int) -> ReadableSpan:
    context = SpanContext(1, number + 1, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan(f"span {number}", context, None, RESOURCE, {}, start_time=1, end_time=2)


def counted(metrics: Metrics) -> dict[str, float]:
    return {result: metrics.counter("spans", result).value for result in ("exported", "refused", "no_room")}


def put(queue: SpanQueue, count: int) -> None:
    for number in range(count):
        if queue.has_room(1):
            queue.put(span(number))


def test_spans_that_find_no_room_are_dropped_and_counted_and_nobody_waits(collector, metrics):
    collector.is_open.clear()
    queue = SpanQueue(otlp.Collector(collector.url, KEY), metrics)
    began = time.monotonic()
    put(queue, QUEUE_MAX + 500)
    assert time.monotonic() - began < otlp.REQUEST_SECONDS / 2
    assert queue.waiting == QUEUE_MAX
    assert counted(metrics) == {"exported": 0, "refused": 0, "no_room": 500}
    collector.is_open.set()
    queue.close()
    assert counted(metrics) == {"exported": QUEUE_MAX, "refused": 0, "no_room": 500}
    assert sorted(each.name for each in collector.spans) == sorted(f"span {number}" for number in range(QUEUE_MAX))
    assert queue.has_room(QUEUE_MAX)


@pytest.mark.parametrize("status", [400, 307])
def test_what_the_collector_does_not_take_is_counted_and_said_once(collector, metrics, status, caplog, monkeypatch):
    monkeypatch.setattr(otlp, "BATCH_SECONDS", 0.05)
    caplog.set_level(logging.INFO, "gateway.telemetry")
    queue = SpanQueue(otlp.Collector(collector.url, KEY), metrics)
    collector.status = status
    for count in (1, 2):
        put(queue, 1)
        wait_until(lambda count=count: counted(metrics)["refused"] == count)
    assert caplog.messages == [f"the collector does not take spans: it answered {status}"]
    collector.status = 200
    put(queue, 1)
    wait_until(lambda: counted(metrics)["exported"] == 1)
    queue.close()
    assert caplog.messages[1:] == ["the collector takes spans again"]


def test_neither_proxies_nor_headers_come_from_the_environment(collector, metrics, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-environment=1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    queue = SpanQueue(otlp.Collector(collector.url + "/", KEY), metrics)
    put(queue, 1)
    queue.close()
    assert counted(metrics)["exported"] == 1
    (headers,) = collector.headers
    assert headers["X-Key"] == KEY["X-Key"]
    assert "x-environment" not in {name.lower() for name in headers}


def test_headers_are_in_no_text_made_of_the_collector():
    assert KEY["X-Key"] not in repr(otlp.Collector("http://127.0.0.1:1", KEY))


def exported(metrics: Metrics, collector: Collector) -> dict:
    export = MetricExport(metrics, MetricSender(otlp.Collector(collector.url, KEY)), RESOURCE, SCOPE, 60)
    export.finish()
    export.join()
    return points(collector.metrics[-1])


def test_the_collector_gets_what_a_scrape_gets(collector, metrics):
    route = metrics.route("/v1/personas")
    for seconds in (0.0004, 0.02, 0.03, 100.0):
        route.observe("POST", 200, seconds, credits_charged=5)
    metrics.refuse("no-route")
    metrics.collect_gauges(lambda: [("holds_open", (), 3), ("config_reloads", ("applied",), 7)])
    found = exported(metrics, collector)
    scraped = samples(metrics)
    plain: dict[tuple[str, ...], float] = {}
    for name, family in FAMILIES.items():
        exposed = name + "_total" * (family.kind == "counter")
        for point in found.get(f"gateway_{name}", []) if family.kind != "histogram" else []:
            labels = (f"{key}={value}" for key, value in sorted(attributes(point).items()))
            plain[exposed, *labels] = point.as_double
    exposed_names = {name + "_total" * (family.kind == "counter") for name, family in FAMILIES.items()}
    assert len(plain) > 5
    assert plain == {key: value for key, value in scraped.items() if key[0] in exposed_names}
    (durations,) = found["gateway_request_duration_seconds"]
    assert tuple(durations.explicit_bounds) == SECONDS
    assert len(durations.bucket_counts) == len(SECONDS) + 1
    assert (durations.count, durations.bucket_counts[0], durations.bucket_counts[-1]) == (4, 1, 1)
    assert durations.sum == pytest.approx(100.0504)
    assert not durations.HasField("max")
    kinds = {
        metric.name: metric.WhichOneof("data")
        for metric in collector.metrics[-1].resource_metrics[0].scope_metrics[0].metrics
    }
    assert kinds["gateway_config_reloads"] == kinds["gateway_requests"] == "sum"
    assert kinds["gateway_holds_open"] == "gauge"


def test_of_several_workers_one_speaks_for_all_and_the_next_when_it_is_gone(tmp_path, collector):
    first, second = Worker(tmp_path), None
    try:
        assert first.ask("count 3") == "done"
        assert first.ask("flush") == "done"
        second = Metrics(tmp_path)
        second.route("/v1/personas").observe("POST", 200, 0.02)
        assert not second.is_speaker
        first.kill()
        assert second.is_speaker
        (calls,) = exported(second, collector)["gateway_requests"]
        assert calls.as_double == 4
        assert calls.start_time_unix_nano == pytest.approx((tmp_path / "0.lock").stat().st_mtime_ns, abs=1_000)
        follower = Metrics(tmp_path)
        assert follower.is_speaker
        assert not second.is_speaker
        follower.close()
    finally:
        first.process.kill()
        if second is not None:
            second.close()


def test_a_round_that_finds_the_one_before_under_way_is_left_out(metrics):
    class Slow:
        def __init__(self):
            self.begun = 0
            self.go_on = SimpleQueue()

        def send(self, _document):
            self.begun += 1
            self.go_on.get()

    sender = Slow()
    export = MetricExport(metrics, sender, RESOURCE, SCOPE, 60)
    export.on_deadline(100.0)
    assert export.deadline == 160.0
    export.on_deadline(160.0)
    export.on_deadline(220.0)
    wait_until(lambda: sender.begun == 1)
    sender.go_on.put(None)
    sender.go_on.put(None)
    wait_until(export._idle.is_set)
    export.finish()
    export.join()
    assert sender.begun == 2


def run(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("section", "is_loaded"), [("", False), ("telemetry: {otlp_endpoint: 'http://x'}\n", True)])
def test_without_the_section_nothing_of_it_is_imported(tmp_path, section, is_loaded):
    code = f"""
import asyncio, sys
from gateway.app import create_app
from gateway.config.load import parse_config
async def main():
    app, _ = create_app(parse_config({section!r}.encode() + b"database: {{url: 'sqlite:///it.db'}}", {{}}))
    await app._open()
    await app._stack.aclose()
asyncio.run(main())
print(any(name.startswith("opentelemetry") for name in sys.modules))
"""
    done = run(code, tmp_path)
    assert done.stdout == f"{is_loaded}\n", done.stderr


@pytest.mark.parametrize("command", ["check", "serve"])
def test_where_the_extra_is_missing_the_config_is_wrong_and_says_what_to_install(tmp_path, command):
    (tmp_path / "config.yaml").write_text("server: {port: 0}\ntelemetry: {otlp_endpoint: 'http://x'}\n")
    code = "import sys; sys.modules['opentelemetry'] = None; from gateway.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "config.yaml:2:1: telemetry: needs OpenTelemetry, which is not installed: pip install 'credit-gateway[otel]'"
    )
