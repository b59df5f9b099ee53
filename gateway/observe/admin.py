"""The app of the admin listener: /metrics for Prometheus, /healthz for whoever restarts us. Callers never reach it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.errors import NoRoute
from gateway.observe.document import Answer, DocumentEndpoint, send_problem
from gateway.observe.health import healthz

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from gateway.observe.metrics import Metrics


def admin_app(metrics: Metrics) -> ASGIApp:
    """A raw ASGI app: GET /metrics, GET /healthz, else 404."""

    async def exposition(scope: Scope) -> Answer:
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        # In a thread, so that calls don't wait for a scrape.
        content_type, body = await asyncio.to_thread(metrics.exposition().render, accept.decode("latin-1"))
        return 200, content_type.encode("latin-1"), body

    endpoints = {"/metrics": DocumentEndpoint(exposition), "/healthz": healthz}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in endpoints:
            await send_problem(NoRoute(), send)
            return
        await endpoints.get(scope.get("path", ""), healthz)(scope, receive, send)

    return app
