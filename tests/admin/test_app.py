"""What the admin listener shows and takes, and whom it turns away."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.admin.app import AdminApp
from gateway.config.load import parse_config
from gateway.config.reload import Outcome
from gateway.observe.metrics import Metrics

CONFIG = """\
admin: {hosts: [gateway.internal]}
identity: {admin_token: "a-secret-token"}
upstreams: {a: {targets: ["http://127.0.0.1:9000"]}}
"""


class Watched:
    config = parse_config(CONFIG.encode(), {})
    outcome = Outcome("applied", ("routes[GET /a].cost: 1 -> 2",))

    def __init__(self):
        self.levels = []
        self.asked = []

    def describe_upstreams(self):
        return [{"name": "a"}]

    async def list_open_holds(self, *, limit, newest):
        self.asked.append((limit, newest))
        return [{"key_id": "key_1"}]

    async def reload(self):
        return self.outcome

    async def set_log_level(self, level):
        self.levels.append(level)


@pytest.fixture
def watched():
    return Watched()


@pytest.fixture
def ask(watched):
    metrics = Metrics()
    metrics.route("/v1/personas").observe("GET", 200, 0.01)
    app = AdminApp(metrics, watched)

    def ask(path, method="GET", body=b"", query=b"", **fields):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": body}

        headers = [(b"host", b"127.0.0.1:9464")] if "host" not in fields else []
        headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": headers}
        asyncio.run(app(scope, receive, send))
        start, end = sent
        return start["status"], dict(start["headers"]), end["body"]

    yield ask
    metrics.close()


def test_metrics_are_served_in_both_formats(ask):
    status, headers, body = ask("/metrics")
    assert status == 200
    assert headers[b"content-type"].startswith(b"text/plain")
    assert "gateway_requests" in {family.name for family in text_string_to_metric_families(body.decode())}
    status, headers, body = ask("/metrics", accept="application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert headers[b"content-type"].startswith(b"application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert ask("/healthz")[0] == 200


def test_nothing_else_is_served(ask):
    status, headers, _ = ask("/nothing")
    assert (status, headers[b"content-type"]) == (404, b"application/problem+json")
    assert ask("/metrics/")[0] == 404
    status, headers, _ = ask("/metrics", "POST")
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")
    assert ask("/reload")[0] == 405
    assert ask("/metrics", "HEAD")[2] == b""


def test_the_index_links_to_every_page(ask):
    status, _, body = ask("/")
    assert status == 200
    for path in ("/metrics", "/config", "/upstreams", "/holds", "/healthz"):
        assert f'href="{path}"'.encode() in body
        assert ask(path)[0] == 200


def test_the_config_is_shown_without_its_secrets(ask):
    _, _, body = ask("/config")
    document = json.loads(body)
    assert document["identity"]["admin_token"] == "[redacted]"
    assert document["upstreams"]["a"]["targets"] == ["http://127.0.0.1:9000"]
    assert b"a-secret-token" not in body


@pytest.mark.parametrize("path", ["/", "/metrics", "/config", "/upstreams", "/holds"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "localhost.evil"])
def test_a_page_that_rebinds_its_name_reads_nothing(ask, path, host):
    assert ask(path, host=host)[0] == 403


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9464", "[::1]:9464", "10.0.0.7:9464", "localhost:9464", "GATEWAY.internal.:9464"]
)
def test_addresses_localhost_and_names_of_the_config_are_served(ask, host):
    assert ask("/config", host=host)[0] == 200


@pytest.mark.parametrize("fields", [{"origin": "http://evil.example"}, {"sec_fetch_site": "cross-site"}])
def test_a_page_of_another_origin_changes_nothing(ask, watched, fields):
    assert ask("/reload", "POST", **fields)[0] == 403
    assert ask("/log-level", "PUT", b'{"level":"debug"}', **fields)[0] == 403
    assert watched.levels == []


def test_no_answer_lets_another_origin_read_it(ask):
    for path in ("/", "/config", "/holds", "/metrics"):
        _, headers, _ = ask(path, origin="http://evil.example")
        assert not any(name.startswith(b"access-control-") for name in headers)
        assert headers[b"cross-origin-resource-policy"] == b"same-origin"


def test_the_log_level_is_one_of_ours(ask, watched):
    assert ask("/log-level", "PUT", b'{"level":"debug"}')[0] == 200
    assert watched.levels == ["debug"]
    for wrong in (b'{"level":"loud"}', b"{}", b"7", b'{"level":["debug"]}', b"[]"):
        assert ask("/log-level", "PUT", wrong)[0] == 422
    for wrong in (b"", b"debug", b"\xff", b"[" * 1_000, b" " * 2_000):
        assert ask("/log-level", "PUT", wrong)[0] == 400
    assert watched.levels == ["debug"]


def test_open_holds_are_bounded_and_ordered(ask, watched):
    assert ask("/holds")[0] == 200
    assert ask("/holds", query=b"order=newest&limit=5")[0] == 200
    assert watched.asked == [(100, False), (5, True)]
    for wrong in (b"limit=0", b"limit=1001", b"limit=-1", b"limit=x", b"limit=", b"order=", b"age=1"):
        assert ask("/holds", query=wrong)[0] == 422


def test_a_reload_tells_what_changed_or_what_stood_against_it(ask, watched):
    status, _, body = ask("/reload", "POST")
    assert (status, json.loads(body)["changes"]) == (200, ["routes[GET /a].cost: 1 -> 2"])
    watched.outcome = Outcome("refused", problems=("config.yaml:1:1: wrong",))
    status, _, body = ask("/reload", "POST")
    assert (status, json.loads(body)["problems"]) == (422, ["config.yaml:1:1: wrong"])


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_other_scopes_are_survived(watched, kind):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(AdminApp(Metrics(), watched)({"type": kind, "path": "/metrics"}, None, send))
