"""The data plane over real sockets: our server, the endpoint, the `local` provider on a file, a scripted upstream.

What the books say is read from the database file, as another process would see it: only what is durable counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from gateway.config.tree import IdempotencySection, RouteSection, SettledCost, UpstreamSection
from gateway.credits.local import LocalProvider, Settings
from gateway.database.engine import open_database
from gateway.deadlines import Deadlines
from gateway.observe.ids import RequestIds
from gateway.observe.metrics import Metrics
from gateway.proxy.endpoint import Endpoint
from gateway.proxy.headers import HeadReader
from gateway.proxy.route import Route
from gateway.proxy.routes import RouteTable
from gateway.upstreams.open import open_transports
from tests.database.template import prepare_database
from tests.server.harness import PATIENCE_SECONDS, Server, wait_until

BODY_MAX_BYTES = 100_000
HOLD_TIMEOUT_SECONDS = 0.6
RESPONSE_TIMEOUT_SECONDS = 0.3
TOLD = SettledCost(hold=20, settle="X-Credits-Used")
ONCE = IdempotencySection(answer_max_bytes=1_000, body_max_bytes=2_000)

ROUTES = {
    "paid": {"cost": 5},
    "told": {"cost": TOLD},
    "told-abortable": {"cost": TOLD, "release_on": ("unreachable", "timeout", "5xx", "client_abort")},
    "free": {"cost": 0},
    "public": {"public": True},
    "lenient": {"cost": 5, "release_on": ("unreachable", "timeout", "5xx", "4xx", "client_abort")},
    "strict": {"cost": 5, "release_on": ()},
    "small": {"cost": 5, "body_max_bytes": 1_000},
    "middle": {"cost": 5, "body_max_bytes": 100_000},
    "socket": {"cost": 5, "websocket": True},
    "stripped": {"cost": 5, "strip_prefix": "/stripped"},
    "refused": {"cost": 5, "upstream": "refusing"},
    "narrow": {"cost": 5, "upstream": "narrow"},
    "refused-strict": {"cost": 5, "upstream": "refusing", "release_on": ()},
    "once": {"cost": 5, "idempotency": ONCE, "methods": ("GET", "HEAD", "POST")},
    "once-told": {"cost": TOLD, "idempotency": ONCE},
    "once-lenient": {
        "cost": TOLD,
        "idempotency": ONCE,
        "release_on": ("unreachable", "timeout", "5xx", "client_abort"),
    },
    "once-strict": {"cost": 5, "idempotency": ONCE, "release_on": ()},
    "once-refused": {"cost": 5, "idempotency": ONCE, "upstream": "refusing"},
}
"""A route for each policy: `/{name}/{script}`, the script being what the upstream does (tests/upstreams/hostile.py)."""


def section(path: str, **rest) -> RouteSection:
    rest.setdefault("methods", ("GET", "POST"))
    rest.setdefault("upstream", "scripted")
    return RouteSection(path=path, **rest)


class Proxy(Server):
    """`provider` may be wrapped: `wrap(provider)` is what the endpoint gets. `patience_seconds`: with upstreams."""

    def __init__(
        self,
        path: Path,
        targets: dict[str, str],
        *,
        wrap=lambda provider: provider,
        trusted=(),
        patience_seconds=RESPONSE_TIMEOUT_SECONDS,
        **server,
    ):
        super().__init__(self._answer, **server)
        self.path = path
        prepare_database(path)
        self.provider: LocalProvider
        self.endpoint: Endpoint
        self._targets = targets
        self._wrap = wrap
        self._trusted = trusted
        self._patience_seconds = patience_seconds

    async def _answer(self, scope, receive, send):
        await self.endpoint(scope, receive, send)

    async def _serve(self):
        async with contextlib.AsyncExitStack() as stack:
            await self._open(stack)
            await super()._serve()

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop, tick_seconds=0.02)
        stack.callback(deadlines.close)
        database = open_database(f"sqlite:///{self.path}")
        stack.push_async_callback(database.aclose)
        self.provider = LocalProvider(database, deadlines, Settings(hold_timeout_seconds=HOLD_TIMEOUT_SECONDS))
        await self.provider.open()
        stack.push_async_callback(self.provider.aclose)
        quick = {"response_timeout_seconds": self._patience_seconds, "connection_wait_seconds": 0.05}
        sections = {name: UpstreamSection(targets=(url,), **quick) for name, url in self._targets.items()}
        sections["narrow"] = UpstreamSection(targets=(self._targets["scripted"],), connections_max=1, **quick)
        self.transports = open_transports(sections, deadlines, loop)
        for transport in self.transports.values():
            stack.push_async_callback(transport.aclose)
        metrics = Metrics(None)
        stack.callback(metrics.close)
        routes = [section(f"/{name}/{{script}}", **policy) for name, policy in ROUTES.items()]
        table = RouteTable(
            [
                (
                    entry,
                    Route(
                        entry,
                        self.transports[entry.upstream],
                        metrics.route(entry.path),
                        body_max_bytes=BODY_MAX_BYTES,
                    ),
                )
                for entry in routes
            ]
        )
        heads = HeadReader(self._trusted)
        self.endpoint = Endpoint(table, self._wrap(self.provider), heads, RequestIds(), metrics)

    def run(self, coroutine):
        """Run it in the server's loop; its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_SECONDS)

    def account(self, credits: int | None = 100, **rest) -> Account:
        secret, key = self.run(self.provider.create("user_1", credits=credits, **rest))
        return Account(self, secret, key.key_id)

    def ask(self, request: bytes, method: str = "GET") -> Answer:
        """Send it on a connection of its own; the answer."""
        caller = self.call(request)
        try:
            return Answer(*caller.response(method))
        finally:
            caller.close()

    @contextlib.contextmanager
    def locked(self):
        """Nobody else can write to the database meanwhile."""
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=PATIENCE_SECONDS)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
        finally:
            connection.close()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict:
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)

    @property
    def credits(self) -> tuple[str | None, str | None]:
        """X-Credits-Cost and X-Credits-Remaining."""
        return self.headers.get("x-credits-cost"), self.headers.get("x-credits-remaining")


@dataclass(frozen=True)
class Account:
    """A key, and what the database file says of it."""

    proxy: Proxy
    secret: str
    key_id: str

    def request(
        self, target: str, method: str = "GET", headers: tuple[bytes, ...] = (), body: bytes | None = None
    ) -> bytes:
        return request(target, method, (b"X-API-Key: " + self.secret.encode(), *headers), body)

    def ask(self, target: str, method: str = "GET", **rest) -> Answer:
        return self.proxy.ask(self.request(target, method, **rest), method)

    def send(self, target: str, method: str = "GET", **rest):
        """Send the request; the caller, whose answer is still to be read."""
        return self.proxy.call(self.request(target, method, **rest))

    def _rows(self, sql: str) -> list[tuple]:
        connection = sqlite3.connect(self.proxy.path)
        try:
            return connection.execute(sql, (self.key_id,)).fetchall()
        finally:
            connection.close()

    @property
    def books(self) -> tuple[int, int]:
        """Available and held."""
        balance, held = self._rows("SELECT balance, held FROM keys WHERE key_id = ?")[0]
        return balance - held, held

    @property
    def spends(self) -> list[tuple[int, str | None]]:
        """Amount and reason of each hold that has ended, oldest first."""
        return self._rows(
            "SELECT -amount, reason FROM entries JOIN keys ON keys.id = entries.key"
            " WHERE key_id = ? AND kind = 'spend' ORDER BY entries.id"
        )

    def ended(self, amount: int, reason: str | None) -> None:
        """Wait until the one hold there was has ended so, and nothing is held."""
        wait_until(lambda: self.spends and not self.books[1])
        assert self.spends == [(amount, reason)]
        available, held = self.books
        assert (available, held) == (100 - amount, 0)


def request(target: str, method: str = "GET", headers: tuple[bytes, ...] = (), body: bytes | None = None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: gateway.test", *headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


class Gate:
    """A script for the upstream that waits, once it has the request, until the test lets it answer."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._entered = threading.Event()
        self._opened = threading.Event()

    def __call__(self, peer, seen) -> bool:
        self._entered.set()
        assert self._opened.wait(PATIENCE_SECONDS)
        peer.send(self._answer)
        return True

    def wait_entered(self) -> None:
        assert self._entered.wait(PATIENCE_SECONDS)

    def open(self) -> None:
        self._opened.set()


def response(*lines: bytes, status: int = 200, body: bytes = b"ok") -> bytes:
    head = [b"HTTP/1.1 %d Status" % status, *lines, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunked(*lines: bytes, trailers: tuple[bytes, ...] = ()) -> bytes:
    head = [b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", *lines]
    return b"\r\n".join([*head, b"", b"5", b"hello", b"0", *trailers, b"", b""])
