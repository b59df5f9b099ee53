"""The proxy that a tutorial shows: Starlette in front, httpx behind, no keys, no credits, no limits.

It stands for what a team writes in an afternoon, and is measured beside the gateway for that reason. Its only help is
a keep-alive pool large enough for the load: httpx keeps 20 connections by default and would open new ones all the time.

UPSTREAM_URL names the upstream; `uvicorn benchmarks.plain_proxy:app` runs it.
"""

from __future__ import annotations

import os

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

client = httpx.AsyncClient(
    base_url=os.environ["UPSTREAM_URL"],
    limits=httpx.Limits(max_connections=256, max_keepalive_connections=256),
    trust_env=False,
)


async def forward(request: Request) -> Response:
    url = httpx.URL(path=request.url.path, query=request.url.query.encode())
    headers = [field for field in request.headers.raw if field[0] != b"host"]
    call = client.build_request(request.method, url, headers=headers, content=await request.body())
    answer = await client.send(call, stream=True)
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        headers=dict(answer.headers),
        background=BackgroundTask(answer.aclose),
    )


app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])])
