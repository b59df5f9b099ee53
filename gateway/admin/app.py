"""The ASGI app of the admin listener.

GET /metrics      for Prometheus, over all workers
GET /config       the config in force, secrets masked
GET /upstreams    each upstream, as the worker that is asked sees it
GET /holds        open holds, of all processes
PUT /log-level    for all workers
POST /reload      read the config anew, in all workers
GET /healthz      for whoever restarts us
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qs

from gateway.admin.guard import Guard
from gateway.config.masking import masked
from gateway.errors import BadRequest, GatewayError, Invalid, MethodNotAllowed, NoRoute
from gateway.observe.document import send_problem
from gateway.observe.health import healthz

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from gateway.config.reload import Outcome
    from gateway.config.tree import Config
    from gateway.observe.metrics import Metrics

BODY_MAX_BYTES = 1_024
HOLDS_DEFAULT, HOLDS_MAX = 100, 1_000
LEVELS = ("debug", "info", "warning", "error")

Answer = tuple[int, str, bytes]
"""Status, content type and body."""

_SAFE = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Watched(Protocol):
    """The running gateway, as ops see it."""

    @property
    def config(self) -> Config:
        """The one in force."""

    def describe_upstreams(self) -> list[dict[str, Any]]:
        """As this worker sees them."""

    async def list_open_holds(self, *, limit: int, newest: bool) -> list[dict[str, Any]]:
        """Of all processes. Raises CreditsUnavailable."""

    async def reload(self) -> Outcome:
        """Raises GatewayError where the config can't change."""

    async def set_log_level(self, level: str) -> None:
        """For all workers. Raises GatewayError."""


class AdminApp:
    """A raw ASGI app. It is asked seldom, so it keeps nothing ready."""

    def __init__(self, metrics: Metrics, gateway: Watched) -> None:
        self._metrics = metrics
        self._gateway = gateway
        handlers: Mapping[str, tuple[str, Callable[[Scope, Receive], Awaitable[Answer]]]] = {
            "/": ("GET", self._index),
            "/metrics": ("GET", self._exposition),
            "/config": ("GET", self._config),
            "/upstreams": ("GET", self._upstreams),
            "/holds": ("GET", self._holds),
            "/log-level": ("PUT", self._log_level),
            "/reload": ("POST", self._reload),
        }
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/healthz":
            await healthz(scope, receive, send)
            return
        try:
            hosts = self._gateway.config.admin.hosts if self._gateway.config.admin is not None else ()
            Guard(hosts).check(scope)
            status, content_type, body = await self._handler_of(scope)(scope, receive)
        except GatewayError as error:
            await send_problem(error, send)
            return
        headers = [
            (b"content-type", content_type.encode("latin-1")),
            (b"content-length", b"%d" % len(body)),
            *_SAFE,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _handler_of(self, scope: Scope) -> Callable[[Scope, Receive], Awaitable[Answer]]:
        found = self._handlers.get(scope["path"])
        if found is None:
            raise NoRoute
        method, handler = found
        methods = ("GET", "HEAD") if method == "GET" else (method,)
        if scope["method"] not in methods:
            raise MethodNotAllowed(methods)
        return handler

    async def _index(self, _scope: Scope, _receive: Receive) -> Answer:
        return 200, "text/html; charset=utf-8", _INDEX

    async def _exposition(self, scope: Scope, _receive: Receive) -> Answer:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        # In a thread, so that calls don't wait for a scrape.
        content_type, body = await asyncio.to_thread(self._metrics.exposition().render, accept.decode("latin-1"))
        return 200, content_type, body

    async def _config(self, _scope: Scope, _receive: Receive) -> Answer:
        return _json(masked(self._gateway.config))

    async def _upstreams(self, _scope: Scope, _receive: Receive) -> Answer:
        return _json({"worker": os.getpid(), "upstreams": self._gateway.describe_upstreams()})

    async def _holds(self, scope: Scope, _receive: Receive) -> Answer:
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=10)
        limit, order = query.pop("limit", [str(HOLDS_DEFAULT)])[-1], query.pop("order", ["oldest"])[-1]
        errors = dict.fromkeys(query, "there is no such parameter")
        if not (limit.isascii() and limit.isdigit() and len(limit) <= 4 and 1 <= int(limit) <= HOLDS_MAX):
            errors["limit"] = f"expected a whole number from 1 to {HOLDS_MAX}"
        if order not in ("oldest", "newest"):
            errors["order"] = "expected oldest or newest"
        if errors:
            raise Invalid(errors=errors)
        holds = await self._gateway.list_open_holds(limit=int(limit), newest=order == "newest")
        return _json({"order": order, "holds": holds})

    async def _log_level(self, _scope: Scope, receive: Receive) -> Answer:
        document = await _read_json(receive)
        level = document.get("level") if isinstance(document, dict) else document
        if level not in LEVELS:
            raise Invalid(errors={"level": f"expected one of {', '.join(LEVELS)}"})
        await self._gateway.set_log_level(level)
        return _json({"level": level})

    async def _reload(self, _scope: Scope, _receive: Receive) -> Answer:
        outcome = await self._gateway.reload()
        document = {"result": outcome.result, "changes": outcome.changes, "problems": outcome.problems}
        return _json(document, 422 if outcome.result == "refused" else 200)


def _json(document: object, status: int = 200) -> Answer:
    return status, "application/json", json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


async def _read_json(receive: Receive) -> Any:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The body broke off.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_MAX_BYTES:
            raise BadRequest(f"The body is longer than {BODY_MAX_BYTES} bytes.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest('The body is no JSON; expected {"level": "debug"}.') from None


_INDEX = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>credit-gateway: admin</title>
<h1>credit-gateway: admin</h1>
<ul>
<li><a href="/metrics">/metrics</a>: numbers of all workers, for Prometheus
<li><a href="/config">/config</a>: the config in force, secrets masked
<li><a href="/upstreams">/upstreams</a>: each upstream, as the worker that answers sees it
<li><a href="/holds">/holds</a>: open holds, oldest first; or <a href="/holds?order=newest">newest</a>
<li><a href="/healthz">/healthz</a>: the process is alive
<li><code>PUT /log-level</code> <code>{"level": "debug"}</code>: for all workers, until the config says otherwise
<li><code>POST /reload</code>: read the config anew, in all workers
</ul>
"""
