"""The corpus of attacks (tests/data/attacks-sample.json, own work, CC0-1.0) against the whole gateway, with an upstream
that keeps every byte: nothing forged, smuggled or unpaid reaches it, and a refusal costs nothing."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.audit import Books, audit
from tests.e2e.harness import Gateway, gateway, settings, until
from tests.e2e.upstream import Seen, Upstream

CORPUS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "attacks-sample.json").read_text())
ROUTES = [
    {"path": "/echo/{rest:path}", "methods": ["GET", "POST"], "upstream": "main", "cost": 1},
    {"path": "/free/{rest:path}", "methods": ["GET"], "upstream": "free", "public": True},
]
OWN_NAMES = {"x-user-id": "x-gateway-user", "x-remaining-credits": "x-gateway-key-id"}
"""The corpus speaks of another gateway's identity headers; these are ours."""
REFUSED = {"reject", "reject-close", "401-then-drain-or-close", "unauth-never-upstream"}
SMUGGLED = b"GET /echo/SMUGGLED HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\n\r\n"
SILENCE_SECONDS = 4
AFTERWARDS_SECONDS = 0.1
"""How long a second answer is waited for, where there must be none."""
CREDITS = 1_000


@dataclass
class Exchange:
    """What one attack led to, on all sides."""

    statuses: list[int] = field(default_factory=list)
    replies: bytes = b""
    closed: bool = False
    seen: list[Seen] = field(default_factory=list)
    raw: bytes = b""
    paid: int = 0
    free_seen: list[Seen] = field(default_factory=list)


class Target:
    """A gateway, its two upstreams, and two funded keys."""

    def __init__(self, running: Gateway, upstream: Upstream, free: Upstream) -> None:
        self.running = running
        self.upstream = upstream
        self.free = free
        self.key, self.key_id = running.create_key(CREDITS, user="owner")
        self.other_key, self.other_key_id = running.create_key(CREDITS, user="other")
        self.attacks: list[bytes] = []

    def available(self) -> int:
        books = Books(self.running.database)
        return books.available(self.key_id) + books.available(self.other_key_id)

    def payload(self, case: dict[str, Any]) -> bytes:
        text = "".join(
            step if isinstance(step, str) else "".join(piece * times for piece, times in step["rle"])
            for step in case["steps"]
        )
        values = {"HOST": f"127.0.0.1:{self.running.port}", "KEY": self.key, "KEY2": self.other_key}
        values |= {"ROUTE": "/echo/x", "R": "echo", "RUP": "ECHO"}
        for name, value in values.items():
            text = text.replace("{{" + name + "}}", value)
        return text.encode("latin-1")

    def attack(self, data: bytes, *pieces: bytes) -> Exchange:
        """Send it all, read until the gateway closes or has nothing more to say, and look around."""
        before = self.available()
        requests, recorded, free = len(self.upstream.seen), len(self.upstream.bytes), len(self.free.seen)
        exchange = Exchange()
        with socket.create_connection(("127.0.0.1", self.running.port), timeout=SILENCE_SECONDS) as caller:
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                for piece in (data, *pieces):
                    caller.sendall(piece)
                    time.sleep(0.02 if pieces else 0)  # a segment of its own, read before the next one comes
                while received := caller.recv(65_536):
                    exchange.replies += received
                    caller.settimeout(AFTERWARDS_SECONDS)
                exchange.closed = True
            except TimeoutError:
                pass
            except OSError:
                exchange.closed = True
        exchange.statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", exchange.replies)]
        until(lambda: Books(self.running.database).holds == [])
        exchange.seen = self.upstream.seen[requests:]
        exchange.raw = self.upstream.bytes[recorded:]
        exchange.free_seen = self.free.seen[free:]
        exchange.paid = before - self.available()
        return exchange


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    directory = tmp_path_factory.mktemp("attacks")
    with ExitStack() as stack:
        upstream, free = stack.enter_context(Upstream()), stack.enter_context(Upstream())
        config = settings(
            directory,
            upstream.url,
            upstreams={"free": {"targets": [free.url]}},
            routes=ROUTES,
            server={"head_timeout_seconds": 2, "body_idle_timeout_seconds": 2},
        )
        running = stack.enter_context(gateway(directory, config))
        made = Target(running, upstream, free)
        running.start()
        yield made
        assert running.stop() == 0
        audit(running.database, upstream)


def translated(name: str) -> str:
    return OWN_NAMES.get(name, name)


def assert_only_our_identity(target: Target, exchange: Exchange) -> None:
    """Whatever was sent: what arrived bears the identity of the key that paid, once, and no other name for it."""
    for seen in exchange.seen:
        assert seen.all("x-gateway-user") == ["owner"]
        assert seen.all("x-gateway-key-id") == [target.key_id]
        assert seen.all("x-gateway-cost") == ["1"]
        names = [name for name, _ in seen.headers]
        assert not [name for name in names if "_" in name or name in OWN_NAMES or name == "authorization"]
    assert exchange.paid == len(exchange.seen), "what was forwarded was paid for, and nothing else"


@pytest.mark.parametrize("case", CORPUS["cases"], ids=lambda case: case["id"])
def test_no_attack_of_the_corpus_succeeds(target, case):
    payload = target.payload(case)
    expect = case["expect"]
    exchange = target.attack(payload)
    assert exchange.statuses or exchange.closed, "neither answered nor closed"
    assert exchange.paid == len(exchange.seen)
    assert len(exchange.seen) <= 1
    assert not any(status >= 500 and status not in (501, 505) for status in exchange.statuses), exchange.replies
    assert target.key.encode() not in exchange.raw + exchange.replies
    assert b"SMUGGLED" not in exchange.raw
    assert b"set-cookie" not in exchange.replies.lower()
    if expect in REFUSED:
        assert exchange.seen == []
        assert exchange.raw == b"", "not even a beginning of it"
        assert exchange.statuses == [] or 400 <= exchange.statuses[0] < 600
    if expect == "reject-close":
        assert exchange.closed
        assert len(exchange.statuses) <= 1
    if expect in ("clean", "one-or-reject", "identity-present", "strip", "key-absent", "no-injected-header"):
        assert exchange.statuses == [200]
        assert len(exchange.seen) == 1
    if expect == "identity-present":
        assert exchange.seen[0].get(translated(case["present"]))
    for name in case.get("strip", []):
        assert all("admin" not in value for seen in exchange.seen for value in seen.all(translated(name)))
    if expect == "same-route-as-charged":
        for seen in exchange.seen:
            assert seen.target.encode("latin-1") == payload.split(b" ")[1], "forwarded as it was priced, byte for byte"
            assert seen.target.startswith("/echo")
    for seen in exchange.free_seen:
        assert seen.target.startswith("/free/")
        assert ".." not in seen.target
    if case["group"] == "cors":
        assert exchange.paid == 0
        assert b"access-control-allow-credentials" not in exchange.replies.lower()
    assert_only_our_identity(target, exchange)


@pytest.mark.parametrize(
    "case", [case for case in CORPUS["cases"] if case["expect"] == "reject-close"], ids=lambda case: case["id"]
)
def test_nothing_after_a_refused_request_is_taken_for_a_request(target, case):
    exchange = target.attack(target.payload(case) + SMUGGLED % target.key.encode())
    assert exchange.seen == []
    assert exchange.raw == b""
    assert len(exchange.statuses) <= 1
    assert exchange.closed
    assert exchange.paid == 0


HEAD = "POST /echo/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
FORGED = "X-Gateway-User: admin\r\nX-Gateway-Key-Id: key_admin\r\nX-User-Id: admin\r\n"
END = CHUNKED + "\r\n"
FORGERIES = {
    "trailers in one segment": [HEAD + CHUNKED + FORGED + "Authorization: Bearer {other}\r\n\r\n"],
    "trailers split": [HEAD + CHUNKED, "X-Gateway-", "User: ad", "min\r\nX-User-Id: admin\r", "\n\r\n"],
    "announced trailers": [HEAD + "Trailer: X-Gateway-User\r\n" + CHUNKED, "X-Gateway-User: admin\r\n\r\n"],
    "named in Connection": [
        HEAD + "Connection: X-Gateway-User, X-Gateway-Key-Id, X-Gateway-Cost\r\n" + CHUNKED + "\r\n"
    ],
    "named in Connection and sent": [HEAD + "Connection: x-gateway-user\r\n" + FORGED + END],
    "with underscores": [HEAD + "x_gateway_user: admin\r\nX_Gateway-Key_Id: admin\r\n" + END],
    "with dots": [HEAD + "X.Gateway.User: admin\r\n" + END],
    "twice in odd case": [HEAD + "X-GATEWAY-USER: admin\r\nx-gAtEwAy-uSeR: admin\r\n" + END],
    "credits of its own": [
        HEAD + "X-Remaining-Credits: 9\r\nX-Credits-Cost: 0\r\nX-Gateway-Cost: 0\r\n" + CHUNKED + "\r\n"
    ],
}


@pytest.mark.parametrize("pieces", FORGERIES.values(), ids=FORGERIES.keys())
def test_the_upstream_sees_only_the_identity_the_gateway_gives(target, pieces):
    first, *rest = [piece.format(key=target.key, other=target.other_key).encode() for piece in pieces]
    exchange = target.attack(first, *rest, b"")
    assert exchange.statuses == [200]
    assert len(exchange.seen) == 1
    assert b"admin" not in exchange.raw
    assert target.other_key.encode() not in exchange.raw
    assert not [name for name, _ in exchange.seen[0].headers if name in ("x-remaining-credits", "x-credits-cost")]
    assert_only_our_identity(target, exchange)


def test_no_key_is_found_anywhere_but_with_its_caller(target):
    """I7. The key is sent in every place where callers put it, rightly and wrongly; then all there is gets searched."""
    key = target.key
    bearer = f"Authorization: Bearer {key}\r\n"
    requests = {
        "rightly": f"GET /echo/x HTTP/1.1\r\nHost: a\r\n{bearer}\r\n",
        "as X-API-Key": f"GET /echo/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n",
        "both": f"GET /echo/x HTTP/1.1\r\nHost: a\r\n{bearer}X-API-Key: {key}\r\n\r\n",
        "in a failed call": f"GET /echo/fail HTTP/1.1\r\nHost: a\r\n{bearer}\r\n",
        "in a reset call": f"POST /echo/reset HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 0\r\n\r\n",
        "in the query": f"GET /echo/x?api_key={key} HTTP/1.1\r\nHost: a\r\n\r\n",
        "in a path without route": f"GET /nowhere/{key} HTTP/1.1\r\nHost: a\r\n{bearer}\r\n",
        "in a bad path": f"GET /echo/../{key} HTTP/1.1\r\nHost: a\r\n{bearer}\r\n",
        "as Basic": f"GET /echo/x HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {key}\r\n\r\n",
        "on a public route": f"GET /free/x HTTP/1.1\r\nHost: a\r\n{bearer}X-API-Key: {key}\r\n\r\n",
        "cut short": f"GET /echo/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key[:-6]}\r\n\r\n",
        "in a bad head": f"GET /echo/x HTTP/1.1\r\nHost: a\r\n{bearer}X-Bad : {key}\r\n\r\n",
    }
    replies = b"".join(target.attack(data.encode()).replies for data in requests.values())
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", target.running.admin_port)) as ops:
        ops.sendall(request)
        metrics = b"".join(iter(lambda: ops.recv(65_536), b""))
    assert b"200 OK" in metrics
    secret = key.removeprefix("gw_")[6:].encode()  # all but what `start` shows of it
    kept = {path.name: path.read_bytes() for path in target.running.directory.iterdir()}
    assert {"gateway.db", "gateway.stderr"} <= kept.keys()
    kept |= {"upstream": target.upstream.bytes, "free": target.free.bytes, "replies": replies, "metrics": metrics}
    assert [name for name, content in kept.items() if secret in content or secret[:12] in content] == []
