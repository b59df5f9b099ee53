"""Metrics: the sums are right over workers, restarts and kills, and no label gives anybody away."""

import asyncio
import contextlib
import math
import subprocess
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Gateway
from gateway.config.tree import Config
from gateway.deadlines import Deadlines
from gateway.observe.families import FAMILIES, SECONDS
from gateway.observe.metrics import Metrics

WORKER = Path(__file__).with_name("counting_worker.py")


def samples(metrics):
    """All samples of a scrape: {(name, labels…): value}."""
    text = metrics.exposition().render()[1].decode()
    return {
        (sample.name.removeprefix("gateway_"), *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Worker:
    """A real process with Metrics of its own in the shared directory."""

    def __init__(self, directory, ready=1):
        command = [sys.executable, WORKER, directory, str(ready)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ask(self, command):
        self.tell(command)
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=60)

    def stop(self):
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0


@pytest.fixture
def directory(tmp_path):
    return tmp_path


@pytest.fixture
def start(directory):
    workers = []

    def start(**options):
        workers.append(Worker(directory, **options))
        assert workers[-1].ask("count 0") == "done"
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture
def metrics():
    with contextlib.closing(Metrics()) as metrics:
        yield metrics


REQUESTS = ("requests_total", "method=POST", "route=/v1/personas", "status=200")


def test_what_the_server_refuses_counts_with_what_the_proxy_refuses(metrics):
    listener = SimpleNamespace(gauges=lambda: [("connections_open", (), 3)], refusals={"bad-request": 1}, intake=None)
    Gateway(Config(), metrics).watch(listener)
    listener.refusals["bad-request"] += 1
    listener.refusals["request-timeout"] = 4
    metrics.refuse("bad-request")
    metrics.refuse("out-of-credits")
    for _ in range(2):
        seen = samples(metrics)
        assert seen["connections_open",] == 3
        assert seen["refusals_total", "reason=bad-request"] == 3
        assert seen["refusals_total", "reason=request-timeout"] == 4
        assert seen["refusals_total", "reason=out-of-credits"] == 1


def test_one_call_is_counted_everywhere(metrics):
    route = metrics.route("/v1/personas")
    route.observe("POST", 200, 0.02, 0.015, 0.001, 5)
    route.release("5xx", 7)
    metrics.refuse("out-of-credits")
    seen = samples(metrics)
    assert seen[REQUESTS] == 1
    assert seen["credits_charged_total", "route=/v1/personas"] == 5
    assert seen["credits_released_total", "reason=5xx", "route=/v1/personas"] == 7
    assert seen["refusals_total", "reason=out-of-credits"] == 1
    assert seen["request_duration_seconds_count", "route=/v1/personas"] == 1
    assert seen["request_duration_seconds_sum", "route=/v1/personas"] == 0.02
    assert seen["upstream_duration_seconds_sum", "route=/v1/personas"] == 0.015
    assert seen["verify_duration_seconds_sum",] == 0.001
    assert seen["overhead_seconds_sum",] == pytest.approx(0.004)


def test_a_call_that_got_no_further_is_not_counted_further(metrics):
    metrics.route("/a").observe("GET", 401, 0.001)
    seen = samples(metrics)
    assert seen["request_duration_seconds_count", "route=/a"] == 1
    assert seen["overhead_seconds_count",] == 1
    assert seen["upstream_duration_seconds_count", "route=/a"] == 0
    assert seen["verify_duration_seconds_count",] == 0


@pytest.mark.parametrize("seconds", [0.0, SECONDS[0], math.nextafter(SECONDS[0], 1), 0.3, 0.5, SECONDS[-1], 1e6])
def test_a_value_is_in_every_bucket_that_bounds_it(metrics, seconds):
    metrics.route("/a").observe("GET", 200, seconds)
    for key, value in samples(metrics).items():
        if key[0] == "request_duration_seconds_bucket":
            assert value == (seconds <= float(key[1].removeprefix("le=")))


def test_parts_that_overlap_never_shrink_a_sum(metrics):
    metrics.route("/a").observe("GET", 200, 0.01, 0.02, 0.03)
    assert samples(metrics)["overhead_seconds_sum",] == 0


def test_callers_can_not_make_up_series(metrics):
    route = metrics.route("/a")
    for method in ("GET", "BREW", "gw_secret", "\n"):
        route.observe(method, 200, 0.01)
    methods = {key[1] for key in samples(metrics) if key[0] == "requests_total"}
    assert methods == {"method=GET", "method=other"}


def test_no_label_can_carry_a_key_a_user_or_a_path():
    labels = {label for family in FAMILIES.values() for label in family.labels}
    assert labels <= {"route", "method", "status", "reason", "upstream", "target", "result"}


def test_counters_histograms_and_gauges_of_others_are_exposed(metrics):
    metrics.counter("database_commits").add()
    metrics.counter("database_commits").add(2)
    metrics.histogram("database_batch_size").observe(3)
    metrics.collect_gauges(lambda: [("upstream_connections_idle", ("personas",), 4)])
    seen = samples(metrics)
    assert seen["database_commits_total",] == 3
    assert seen["database_batch_size_bucket", "le=2.0"] == 0
    assert seen["database_batch_size_bucket", "le=4.0"] == 1
    assert seen["upstream_connections_idle", "upstream=personas"] == 4
    assert seen["workers",] == 1


def test_both_formats_parse(metrics):
    metrics.route('/a"\\\n{rest:path}').observe("GET", 200, 0.01, 0.01, 0.01)
    content_type, text = metrics.exposition().render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    (requests,) = [family for family in parse_openmetrics(text.decode()) if family.name == "gateway_requests"]
    assert requests.samples[0].labels["route"] == '/a"\\\n{rest:path}'
    assert {family.type for family in text_string_to_metric_families(metrics.exposition().render()[1].decode())} == {
        "counter",
        "gauge",
        "histogram",
    }


def test_any_worker_answers_for_all(start, directory):
    one, other = start(), start()
    one.ask("count 30")
    other.ask("count 12")
    one.ask("flush")
    other.ask("flush")
    with contextlib.closing(Metrics(directory)) as third:
        third.route("/v1/personas").observe("POST", 200, 0.02, 0.01, 0.001, 5)
        seen = samples(third)
    assert seen[REQUESTS] == 43
    assert seen["credits_charged_total", "route=/v1/personas"] == 43 * 5
    assert seen["request_duration_seconds_bucket", "le=0.025", "route=/v1/personas"] == 43
    assert seen["request_duration_seconds_bucket", "le=0.01", "route=/v1/personas"] == 0
    assert seen["request_duration_seconds_sum", "route=/v1/personas"] == pytest.approx(43 * 0.02)
    assert seen["holds_open",] == 6
    assert seen["workers",] == 3


def test_all_workers_are_ready_or_none(start, directory):
    start(ready=1).ask("flush")
    with contextlib.closing(Metrics(directory)) as here:
        assert samples(here)["ready",] == 1
        start(ready=0).ask("flush")
        assert samples(here)["ready",] == 0


def test_a_killed_worker_keeps_its_counts_and_loses_its_gauges(start, directory):
    with contextlib.closing(Metrics(directory)) as here:
        worker = start()
        worker.ask("count 30")
        worker.ask("flush")
        before = samples(here)
        worker.kill()
        after = samples(here)
        assert before[REQUESTS] == after[REQUESTS] == 30
        assert (before["workers",], after["workers",]) == (2, 1)
        assert before["holds_open",] == 3
        assert ("holds_open",) not in after
        successor = start()
        assert samples(here)[REQUESTS] == 30
        successor.ask("count 5")
        successor.ask("flush")
        assert samples(here)[REQUESTS] == 35
        assert samples(here)["workers",] == 2


def test_restarts_leave_no_more_files_than_workers(start, directory):
    for expected in range(1, 6):
        worker = start()
        worker.ask("count 1")
        worker.kill() if expected % 2 else worker.stop()
    with contextlib.closing(Metrics(directory)) as here:
        assert samples(here)["workers",] == 1
    assert {path.name for path in directory.iterdir()} <= {"0.lock", "0.json", "0.new"}


def test_what_was_scraped_once_survives_a_kill(start, directory):
    worker = start()
    worker.ask("count 17")
    worker.ask("scrape")
    worker.kill()
    with contextlib.closing(Metrics(directory)) as here:
        assert samples(here)[REQUESTS] == 17


def test_a_stopped_worker_leaves_every_count_behind(start, directory):
    worker = start()
    worker.ask("count 17")
    worker.stop()
    with contextlib.closing(Metrics(directory)) as here:
        seen = samples(here)
    assert seen[REQUESTS] == 17
    assert ("holds_open",) not in seen


def test_no_counter_ever_goes_back_while_workers_are_killed_at_work(start, directory):
    highest = defaultdict(float)
    with contextlib.closing(Metrics(directory)) as here:
        for _ in range(4):
            racers = [start(), start()]
            for racer in racers:
                racer.tell("race")
            for step in range(40):
                if step == 20:
                    racers[0].kill()
                for key, value in samples(here).items():
                    if key[0].endswith(("_total", "_bucket", "_count", "_sum")):
                        assert value >= highest[key], key
                        highest[key] = value
            racers[1].kill()
    assert highest[REQUESTS] > 0
    assert highest["request_duration_seconds_count", "route=/v1/personas"] == highest[REQUESTS]
    assert len(list(directory.glob("*.json"))) <= 3


def test_workers_that_start_at_once_each_get_a_place(directory):
    with contextlib.ExitStack() as stack:
        barrier = threading.Barrier(8)
        made = []

        def make():
            barrier.wait(10)
            made.append(Metrics(directory))

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        for number, metrics in enumerate(made):
            stack.callback(metrics.close)
            metrics.route("/a").observe("GET", 200 + number, 0.01)
            metrics.flush()
        assert len(made) == 8
        seen = samples(made[0])
        assert seen["workers",] == 8
        assert seen["request_duration_seconds_count", "route=/a"] == 8


def test_scrapes_in_threads_while_counting_are_consistent(directory):
    async def run():
        with contextlib.closing(Metrics(directory)) as metrics:
            route = metrics.route("/v1/personas")
            counted = 0
            for _ in range(20):
                scrape = asyncio.create_task(asyncio.to_thread(metrics.exposition().render))
                while not scrape.done():
                    for status in (200, 402, 503):
                        route.observe("POST", status, 0.02, 0.01, 0.001, 5)
                    route.release("5xx", 1)
                    counted += 3
                    await asyncio.sleep(0)
                list(text_string_to_metric_families((await scrape)[1].decode()))
            assert sum(value for key, value in samples(metrics).items() if key[0] == "requests_total") == counted

    asyncio.run(run())


def test_the_shared_tick_shares_the_counts(directory):
    async def run():
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop, tick_seconds=0.01)
        with (
            contextlib.closing(Metrics(directory, flush_seconds=0.02)) as one,
            contextlib.closing(Metrics(directory)) as other,
        ):
            deadlines.watch(one)
            for expected in (1, 2):
                one.route("/v1/personas").observe("POST", 200, 0.02)
                give_up_at = loop.time() + 10
                while samples(other).get(REQUESTS) != expected:
                    assert loop.time() < give_up_at
                    await asyncio.sleep(0.005)
            deadlines.close()

    asyncio.run(run())


def test_a_full_disk_stops_nothing_and_loses_nothing(directory, monkeypatch, caplog):
    with contextlib.closing(Metrics(directory)) as metrics:
        route = metrics.route("/v1/personas")
        route.observe("POST", 200, 0.02)
        metrics.flush()

        def full(*_args, **_options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            route.observe("POST", 200, 0.02)
            metrics.on_deadline(1.0)
            metrics.on_deadline(2.0)
            assert samples(metrics)[REQUESTS] == 1
        assert len(caplog.records) == 1
        assert samples(metrics)[REQUESTS] == 2


def test_numbers_of_another_version_are_not_mistaken_for_ours(directory):
    (directory / "0.json").write_text('{"format": 0, "whatever": []}')
    with contextlib.closing(Metrics(directory)) as metrics:
        assert samples(metrics)["workers",] == 1
