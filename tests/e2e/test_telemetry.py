"""OpenTelemetry, as a collector sees it of a gateway that runs."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import Gateway, gateway, settings, until
from tests.e2e.upstream import Upstream
from tests.observe.collector import Collector, attributes, points

SECRET = "of-the-collector-only-9876"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SERVER, CLIENT = 2, 3
FAILED = 2


def configured(directory: Path, upstream: str, collector: str, *, workers: int = 1, **telemetry: Any) -> dict[str, Any]:
    telemetry = {"otlp_endpoint": collector, "headers": {"X-Collector-Key": SECRET}, **telemetry}
    return settings(directory, upstream, server={"workers": workers, "watch_config": False}, telemetry=telemetry)


def traced(number: int, *, sampled: bool) -> str:
    """A caller's own trace, each of another number."""
    return f"traceparent: 00-{TRACE[:-2]}{number:02x}-{SPAN}-{'01' if sampled else '00'}\r\n"


def call(running: Gateway, data: bytes) -> Answer:
    async def once() -> Answer:
        async with await Caller.open(running.port) as caller:
            return await caller.call(data)

    return asyncio.run(once())


def of_trace(collector: Collector, number: int) -> dict[int, Any]:
    """The spans of a caller's trace, by their kind."""
    spans = [span for span in collector.spans if span.trace_id.hex() == f"{TRACE[:-2]}{number:02x}"]
    assert len({span.kind for span in spans}) == len(spans)
    return {span.kind: span for span in spans}


def test_a_call_is_a_span_between_its_callers_and_its_upstreams(tmp_path):
    with Upstream() as upstream, Collector() as collector:
        config = configured(tmp_path, upstream.url, collector.url, sample=0)
        with gateway(tmp_path, config) as running:
            key, key_id = running.create_key(2)
            running.start()
            httpx.get(f"http://127.0.0.1:{running.port}/healthz", headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
            began = time.time_ns()
            good = call(running, request(key, extra=traced(1, sampled=True)))
            failed = call(running, request(key, "fail", extra=traced(2, sampled=True)))
            call(running, request(key, extra=traced(3, sampled=False)))
            unsampled = call(running, request(key, key))
            refused = call(running, request(key, extra=traced(4, sampled=True)))
            assert (good.status, failed.status, unsampled.status, refused.status) == (200, 503, 402, 402)
            assert running.stop() == 0  # what waits is sent now
            ended = time.time_ns()
            spans = of_trace(collector, 1)
            server, client = spans[SERVER], spans[CLIENT]
            told = attributes(server)
            arrived = upstream.seen[0].get("traceparent")
            assert arrived == f"00-{client.trace_id.hex()}-{client.span_id.hex()}-01"
            assert server.parent_span_id.hex() == SPAN
            assert client.parent_span_id == server.span_id != client.span_id
            assert server.name == "POST /call/{what}"
            assert told["http.request.method"] == "POST"
            assert told["http.route"] == "/call/{what}"
            assert told["http.response.status_code"] == 200
            assert told["url.path"] == "/call/ok"
            assert told["gateway.credits.cost"] == 1
            assert told["gateway.credits.verdict"] == "settled"
            assert told["gateway.key_id"] == key_id
            assert told["gateway.request_id"] == good.request_id
            assert attributes(client)["gateway.upstream"] == "main"
            assert began <= server.start_time_unix_nano <= client.start_time_unix_nano
            assert client.start_time_unix_nano < client.end_time_unix_nano <= server.end_time_unix_nano <= ended
            assert server.status.code != FAILED

            spans = of_trace(collector, 2)
            told = attributes(spans[SERVER])
            assert (told["gateway.credits.verdict"], told["gateway.credits.cost"]) == ("released:5xx", 0)
            assert attributes(spans[CLIENT])["http.response.status_code"] == 503
            assert spans[SERVER].status.code == spans[CLIENT].status.code == FAILED

            assert of_trace(collector, 3) == {}
            assert upstream.seen[2].get("traceparent").endswith("-00")

            spans = of_trace(collector, 4)
            assert set(spans) == {SERVER}
            assert spans[SERVER].parent_span_id.hex() == SPAN
            told = attributes(spans[SERVER])
            assert told["gateway.credits.verdict"] == "refused:out-of-credits"
            assert told["http.response.status_code"] == 402

            assert len(collector.spans) == 5  # and of nothing else
            assert {headers["X-Collector-Key"] for headers in collector.headers} == {SECRET}


def test_of_the_traces_that_begin_here_a_share_is_sampled_and_it_may_change_while_calls_run(tmp_path):
    with Upstream() as upstream, Collector() as collector:
        config = configured(tmp_path, upstream.url, collector.url, sample=0)
        with gateway(tmp_path, config) as running:
            key, _ = running.create_key(None)
            running.start()
            call(running, request(key))
            config["telemetry"]["sample"] = 1
            running.config_file.write_text(json.dumps(config))
            running.signal(signal.SIGHUP)
            until(lambda: "telemetry.sample: 0" in running.errors)
            until(lambda: "1 changes are in force" in running.errors)
            call(running, request(key, key))
            call(running, request(key, extra=traced(1, sampled=False)))
            assert running.stop() == 0
            flags = [seen.get("traceparent")[-2:] for seen in upstream.seen]
            assert flags == ["00", "01", "00"]
            spans = {span.kind: span for span in collector.spans}
            assert len(collector.spans) == 2
            assert not spans[SERVER].parent_span_id
            sent = upstream.seen[1].get("traceparent")
            assert sent == f"00-{spans[CLIENT].trace_id.hex()}-{spans[CLIENT].span_id.hex()}-01"
            assert attributes(spans[SERVER])["url.path"] == "/call/gw_[redacted]"
            exported = b"\n".join(collector.bodies)
            assert [secret for secret in (key, SECRET) if secret.encode() in exported] == []
            assert SECRET not in running.errors


def test_metrics_are_those_of_all_workers_by_one_of_them_whoever_dies(tmp_path):
    with Upstream() as upstream, Collector() as collector:
        config = configured(tmp_path, upstream.url, collector.url, workers=2, traces=False, metrics_interval_seconds=1)
        with gateway(tmp_path, config) as running:
            key, _ = running.create_key(None)
            running.start()

            def sent() -> list[tuple[float, int, float]]:
                """Calls, since when they are counted, and workers, of each export."""
                return [
                    (found["gateway_requests"][0].as_double, found["gateway_requests"][0].start_time_unix_nano, workers)
                    for found in map(points, list(collector.metrics))
                    if "gateway_requests" in found
                    for workers in [found["gateway_workers"][0].as_double]
                ]

            for _ in range(20):  # by connections of their own: both workers get some
                assert call(running, request(key)).status == 200
            until(lambda: any(calls == 20 and workers == 2 for calls, _, workers in sent()))
            for worker in running.workers():
                worker.kill()
                until(lambda: len(running.workers()) == 2)
                seen = len(sent())
                until(lambda seen=seen: any(workers == 2 for _, _, workers in sent()[seen:]))
            assert call(running, request(key)).status == 200
            assert running.stop() == 0
            told = sent()
            assert [calls for calls, _, _ in told] == sorted(calls for calls, _, _ in told)
            assert told[-1][0] == 21
            assert len({begun for _, begun, _ in told}) == 1
            resources = [attributes(each.resource_metrics[0].resource) for each in collector.metrics]
            assert len({resource["service.instance.id"] for resource in resources}) == 1
            assert {resource["service.name"] for resource in resources} == {"credit-gateway"}
            assert len(collector.metrics) < 60  # one of them, not each


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_a_dead_collector_costs_no_call_and_holds_up_no_stop(tmp_path, fault):
    with socket.create_server(("127.0.0.1", 0)) as listening, Upstream() as upstream:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if fault == "refuses":
            listening.close()
        config = configured(tmp_path, upstream.url, url, sample=1, metrics_interval_seconds=1)
        with gateway(tmp_path, config) as running:
            key, _ = running.create_key(None)
            running.start()
            began = time.monotonic()
            while time.monotonic() < began + 3:
                asked = time.monotonic()
                assert call(running, request(key)).status == 200
                assert time.monotonic() - asked < 1
            if fault == "refuses":
                until(lambda: "the collector does not take spans: ConnectionError" in running.errors)
            stopped = time.monotonic()
            assert running.stop() == 0
            assert time.monotonic() - stopped < 8  # FLUSH_SECONDS, and a busy machine
            assert "the collector did not take what was left" in running.errors
            assert SECRET not in running.errors
            assert "Traceback" not in running.errors
