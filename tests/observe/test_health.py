"""Health and readiness."""

import asyncio
import json

from gateway.observe.health import Readiness, healthz


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


def test_a_note_is_shown_and_changes_nothing():
    readiness = Readiness(["database"])
    readiness.set("database", True)
    readiness.note("config", False, "the last change was refused")
    status, document = state(readiness)
    assert (status, document["ready"]) == (200, True)
    assert document["checks"]["config"] == {"ok": False, "reason": "the last change was refused"}
    readiness.note("config", True)
    assert state(readiness)[1]["checks"]["config"] == {"ok": True}


def test_head_has_no_body():
    status, headers, body = call(healthz, "/healthz", "HEAD")
    assert (status, body) == (200, b"")
    assert headers[b"content-length"] == b"15"
