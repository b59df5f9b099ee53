"""Health, readiness and the admin listener's app."""

import asyncio
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.admin import admin_app
from gateway.observe.health import Readiness, healthz
from gateway.observe.metrics import Metrics


def call(app, path="/", method="GET", headers=()):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError("nothing is read")

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]), body["body"]


def state(readiness):
    status, headers, body = call(readiness.readyz)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"cache-control"] == b"no-store"
    assert int(headers[b"content-length"]) == len(body)
    return status, json.loads(body)


def test_alive_whatever_else_is_broken():
    assert call(healthz)[0] == 200
    assert json.loads(call(healthz)[2]) == {"status": "ok"}


def test_not_ready_before_every_check_has_spoken():
    readiness = Readiness(["database", "credits"])
    readiness.set("database", True)
    status, document = state(readiness)
    assert status == 503
    assert document == {
        "ready": False,
        "checks": {
            "serving": {"ok": True},
            "database": {"ok": True},
            "credits": {"ok": False, "reason": "starting"},
        },
    }


def test_ready_follows_its_checks():
    readiness = Readiness(["database"])
    readiness.set("database", True)
    assert state(readiness)[0] == 200
    assert readiness.ready
    readiness.set("database", False, "does not answer")
    status, document = state(readiness)
    assert status == 503
    assert document["checks"]["database"] == {"ok": False, "reason": "does not answer"}
    readiness.set("database", False)
    assert state(readiness)[1]["checks"]["database"]["reason"] == "failing"
    readiness.set("database", True)
    assert state(readiness)[0] == 200
    readiness.set("new", False, "broken")
    assert not readiness.ready


def test_draining_is_final():
    readiness = Readiness(["database"])
    readiness.set("database", True)
    readiness.drain()
    readiness.set("database", False, "x")
    readiness.set("database", True)
    status, document = state(readiness)
    assert status == 503
    assert not readiness.ready
    assert document["checks"]["serving"] == {"ok": False, "reason": "draining"}


@pytest.fixture
def admin():
    metrics = Metrics()
    metrics.route("/v1/personas").observe("GET", 200, 0.01)
    yield admin_app(metrics)
    metrics.close()


def test_the_admin_app_serves_metrics_and_health(admin):
    status, headers, body = call(admin, "/metrics")
    assert status == 200
    assert headers[b"content-type"].startswith(b"text/plain")
    families = {family.name for family in text_string_to_metric_families(body.decode())}
    assert "gateway_requests" in families
    openmetrics = [(b"accept", b"application/openmetrics-text; version=1.0.0,text/plain;q=0.5")]
    status, headers, body = call(admin, "/metrics", headers=openmetrics)
    assert headers[b"content-type"].startswith(b"application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert call(admin, "/healthz")[0] == 200


def test_the_admin_app_serves_nothing_else(admin):
    status, headers, _ = call(admin, "/")
    assert status == 404
    assert headers[b"content-type"] == b"application/problem+json"
    assert call(admin, "/metrics/")[0] == 404
    status, headers, _ = call(admin, "/metrics", "POST")
    assert status == 405
    assert headers[b"allow"] == b"GET, HEAD"


def test_head_has_no_body(admin):
    status, headers, body = call(admin, "/healthz", "HEAD")
    assert (status, body) == (200, b"")
    assert headers[b"content-length"] == b"15"


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_the_admin_app_survives_other_scopes(admin, kind):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(admin({"type": kind, **({"path": "/metrics"} if kind == "websocket" else {})}, None, send))
    assert [message["type"] for message in sent] == (["websocket.close"] if kind == "websocket" else [])
