"""Metrics, as whoever scrapes a gateway of two workers compares them with what callers and upstream have counted."""

from __future__ import annotations

import contextlib

import psutil

from tests.e2e.audit import Books
from tests.e2e.caller import request
from tests.e2e.harness import Gateway, count, gateway, settings, until
from tests.e2e.open_loop import OpenLoop
from tests.e2e.upstream import Upstream

CREDITS = count(500, 50_000)
CONNECTIONS = 16
SCRAPES = count(4, 20)


def serves(worker: psutil.Process, port: int) -> bool:
    """Whether it has connections of callers."""
    states = [one.status for one in worker.net_connections("tcp") if one.laddr and one.laddr.port == port]
    return psutil.CONN_ESTABLISHED in states


def load_each_worker(stack: contextlib.ExitStack, running: Gateway, key: str) -> list[OpenLoop]:
    """A load for each, which connects while the others are stopped: one that is quick might take all of them."""
    words = {"port": running.port, "request": request(key).decode(), "connections": CONNECTIONS}
    workers, loops = running.workers(), []
    for worker in workers:
        others = [other for other in workers if other != worker]
        for other in others:
            other.suspend()
        loops.append(stack.enter_context(OpenLoop(**words)))
        until(lambda worker=worker: serves(worker, running.port))
        for other in others:
            other.resume()
    return loops


def counted(running: Gateway) -> dict[str, float]:
    requests, seconds = "gateway_requests_total", "gateway_request_duration_seconds"
    return {
        "served": running.metric(requests, status="200"),
        "refused": running.metric(requests, status="402"),
        "all": running.metric(requests),
        "out of credits": running.metric("gateway_refusals_total", reason="out-of-credits"),
        "timed": running.metric(f"{seconds}_count"),
        "in the last bucket": running.metric(f"{seconds}_bucket", le="+Inf"),
        "charged": running.metric("gateway_credits_charged_total"),
    }


def test_the_metrics_of_two_workers_add_up_to_what_callers_upstream_and_ledger_have(tmp_path):
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server={"workers": 2}, log={"access": False})
        with gateway(tmp_path, config) as running:
            key, _ = running.create_key(CREDITS)
            running.start()
            with contextlib.ExitStack() as stack:
                loops = load_each_worker(stack, running, key)
                until(lambda: running.metric("gateway_requests_total", status="402") > CREDITS / 10, 120)
                told = [loop.told() for loop in loops]
            assert [(each.refused, each.broken, each.unanswered) for each in told] == [(0, 0, 0)] * 2
            served, refused = (sum(getattr(each, name) for each in told) for name in ("served", "others"))
            assert served == CREDITS
            every = served + refused
            expected = {
                "served": CREDITS,
                "refused": refused,
                "all": every,
                "out of credits": refused,
                "timed": every,
                "in the last bucket": every,
                "charged": CREDITS,
            }
            until(lambda: running.metric("gateway_requests_total") >= every)
            # One worker answers, now this one, now that one.
            assert [counted(running) for _ in range(SCRAPES)] == [expected] * SCRAPES
            assert running.metric("gateway_workers") == 2
            print(f"{served} served and {refused} refused, as the load has counted")
        assert len(upstream.seen) == sum(Books(running.database).charged.values()) == CREDITS
