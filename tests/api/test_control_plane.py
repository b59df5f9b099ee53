"""What holds for every request to the control plane: problems, request ids, the log and the metrics."""

from __future__ import annotations

import asyncio
import json
import os
import threading

import pytest
import uvloop

from gateway.observe.access_log import AccessLog
from gateway.observe.redaction import Redaction
from tests.api.harness import ADMIN_TOKEN, open_api

PATHS = ["/", "/nope", "/api-keys/", "/Credits", "/credits/nope", "/api-keys/a/b", "/orders", "/healthz2", "/docs/x"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_is_nothing_is_404(with_api, path):
    async def test(api):
        for method in ("GET", "POST", "PATCH", "DELETE"):
            answer = await api.call(f"{method} {path}", admin=True)
            assert (answer.status, answer.slug) == (404, "no-route")

    with_api(test)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api-keys", "GET, HEAD, POST"),
        ("/api-keys/key_1", "DELETE, PATCH"),
        ("/api-keys/key_1/rotate", "POST"),
        ("/credits", "GET, HEAD"),
        ("/credits/adjustments", "POST"),
        ("/stripe-webhook", "POST"),
        ("/docs", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_405_with_those_that_it_does(with_api, path, allowed):
    async def test(api):
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"} - set(allowed.split(", ")):
            answer = await api.call(f"{method} {path}", admin=True)
            assert (answer.status, answer.slug, answer.headers["allow"]) == (405, "method-not-allowed", allowed)

    with_api(test)


def test_a_defect_is_500_without_its_cause_and_the_next_request_is_served(with_api, caplog):
    async def test(api):
        async def fail(*_arguments, **_more):
            raise ZeroDivisionError("the inner workings")

        api.provider.list = fail
        answer = await api.call("GET /api-keys", admin=True)
        assert (answer.status, answer.slug) == (500, "internal-error")
        assert b"inner workings" not in answer.body
        assert "the inner workings" in caplog.text
        assert (await api.call("GET /pricing")).status == 200

    with_api(test)


def test_nothing_is_ever_cached_or_guessed_at(with_api):
    async def test(api):
        for what in ("GET /pricing", "GET /nope", "GET /docs", "GET /credits"):
            answer = await api.call(what)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-request-id"].startswith("req_")

    with_api(test)


def records_of(ledger, test):
    """Run `test(api)` with an access log; the records and the metrics afterwards."""
    reader, writer = os.pipe()
    lines = []

    def read():
        with os.fdopen(reader) as stream:
            lines.extend(stream.read().splitlines())

    thread = threading.Thread(target=read)
    thread.start()
    metrics = []

    async def main():
        log = AccessLog(writer, json_lines=True, redaction=Redaction(secrets=[ADMIN_TOKEN]))
        async with open_api(ledger, log=log) as api:
            await test(api)
            metrics.append(api.metrics.exposition().render("")[1].decode())
        log.close()

    uvloop.run(main())
    os.close(writer)
    thread.join(5)
    return [json.loads(line) for line in lines], metrics[0]


def test_every_request_is_in_the_log_and_the_metrics_refused_or_not(ledger):
    async def test(api):
        made = await api.new_key("alice")
        await api.call("GET /credits", key=made["api_key"])
        await api.call("GET /credits")
        await api.call("GET /nope?a=b")
        await api.call(f"DELETE /api-keys/{made['key_id']}", user="bob")

    records, metrics = records_of(ledger, test)
    seen = [(r["method"], r["path"].partition("/key_")[0], r["status"], r["route"], r["verdict"]) for r in records]
    assert seen == [
        ("POST", "/api-keys", 201, "/api-keys", ""),
        ("GET", "/credits", 200, "/credits", ""),
        ("GET", "/credits", 401, "/credits", "refused:missing-key"),
        ("GET", "/nope", 404, "", "refused:no-route"),
        ("DELETE", "/api-keys", 404, "/api-keys/{key_id}", "refused:not-found"),
    ]
    assert records[1]["key_id"].startswith("key_")
    assert len({record["request_id"] for record in records}) == 5
    for line in (
        'gateway_requests_total{method="POST",route="/api-keys",status="201"} 1.0',
        'gateway_requests_total{method="GET",route="/credits",status="200"} 1.0',
        'gateway_requests_total{method="GET",route="/credits",status="401"} 1.0',
        'gateway_requests_total{method="DELETE",route="/api-keys/{key_id}",status="404"} 1.0',
        'gateway_refusals_total{reason="missing-key"} 1.0',
        'gateway_refusals_total{reason="no-route"} 1.0',
        'gateway_refusals_total{reason="not-found"} 1.0',
        "gateway_overhead_seconds_count 0.0",
    ):
        assert line in metrics


def test_no_secret_is_in_the_log(ledger, caplog):
    said = []

    async def test(api):
        made = await api.new_key("alice")
        token = api.app.token()
        said.extend([made["api_key"], token, "the-idempotency-key"])
        await api.call(f"GET /orders/{made['api_key']}", headers=[("authorization", f"Bearer {token}")])
        await api.call(f"GET /credits?key_id={made['api_key']}&token={token}", admin=True)
        await api.call("POST /api-keys", {"name": made["api_key"]}, user="alice", once="the-idempotency-key")
        await api.call("GET /credits", key=made["api_key"] + "x")
        await api.call(f"DELETE /api-keys/{made['api_key']}", admin=True)

    records, metrics = records_of(ledger, test)
    assert len(records) == 6
    everything = json.dumps(records) + metrics + caplog.text
    for secret in (*said, ADMIN_TOKEN):
        assert secret not in everything
        assert secret[10:40] not in everything


def test_who_leaves_is_in_the_log_as_gone(ledger):
    async def test(api):
        entered = asyncio.Event()

        async def never(*_arguments, **_more):
            entered.set()
            await asyncio.Event().wait()

        api.provider.list = never
        call = asyncio.create_task(api.call("GET /api-keys", admin=True))
        await entered.wait()
        call.cancel()
        await asyncio.wait([call])

    records, _ = records_of(ledger, test)
    assert [(record["status"], record["verdict"]) for record in records] == [(499, "")]
