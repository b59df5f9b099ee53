"""A request on its way upstream: within the route's time, and with its body counted where that still comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from gateway.errors import UpstreamTimeout
from gateway.proxy.body import StreamedBody
from gateway.proxy.route import Route
from gateway.upstreams.transport import UpstreamRequest, UpstreamResponse


def forward(route: Route, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
    if isinstance(request.body, StreamedBody):
        return _forward_upload(route, request, request.body)
    return route.transport.send(request)


async def _forward_upload(route: Route, request: UpstreamRequest, body: StreamedBody) -> UpstreamResponse:
    with route.uploads.admit(body):
        return await route.transport.send(request)


async def forward_within(seconds: float, route: Route, request: UpstreamRequest) -> UpstreamResponse:
    try:
        async with asyncio.timeout(seconds):
            return await forward(route, request)
    except TimeoutError as error:
        cause = f"no head within the route's timeout_seconds, {seconds:g}"
        raise UpstreamTimeout(cause=cause, possibly_executed=True) from error
