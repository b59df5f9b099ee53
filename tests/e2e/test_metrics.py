"""Metrics, as whoever scrapes a gateway of two workers compares them with what callers and upstream have counted."""

from __future__ import annotations

import psutil

from tests.e2e.audit import Books
from tests.e2e.caller import request
from tests.e2e.harness import Gateway, count, gateway, settings, until
from tests.e2e.open_loop import OpenLoop
from tests.e2e.upstream import Upstream

CREDITS = count(500, 50_000)
CONNECTIONS = 32
SCRAPES = count(4, 20)


def serves(worker: psutil.Process, port: int) -> bool:
    """Whether it has connections of callers."""
    states = [one.status for one in worker.net_connections("tcp") if one.laddr and one.laddr.port == port]
    return psutil.CONN_ESTABLISHED in states


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
            words = {"port": running.port, "request": request(key).decode(), "connections": CONNECTIONS}
            with OpenLoop(**words) as loop:
                until(lambda: all(serves(worker, running.port) for worker in running.workers()))
                until(lambda: running.metric("gateway_requests_total", status="402") > CREDITS / 10, 120)
                told = loop.told()
            assert (told.served, told.refused, told.broken, told.unanswered) == (CREDITS, 0, 0, 0)
            every = told.served + told.others
            expected = {
                "served": CREDITS,
                "refused": told.others,
                "all": every,
                "out of credits": told.others,
                "timed": every,
                "in the last bucket": every,
                "charged": CREDITS,
            }
            until(lambda: running.metric("gateway_requests_total") >= every)
            # One worker answers, now this one, now that one.
            assert [counted(running) for _ in range(SCRAPES)] == [expected] * SCRAPES
            assert running.metric("gateway_workers") == 2
            print(f"{told.served} served and {told.others} refused of {every} counted by the load")
        assert len(upstream.seen) == sum(Books(running.database).charged.values()) == CREDITS
