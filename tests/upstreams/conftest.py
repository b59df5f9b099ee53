"""An event loop like the server's, transports of both kinds, and the scripted upstream."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.config.tree import UpstreamSection
from gateway.deadlines import Deadlines
from gateway.errors import UpstreamError, UpstreamTimeout
from gateway.upstreams.http1 import Http1Transport
from gateway.upstreams.open import open_transports
from gateway.upstreams.transport import TargetTransport, Transport, UpstreamRequest, UpstreamResponse
from gateway.upstreams.upstream import Upstream
from tests.upstreams.hostile import ScriptedUpstream

KINDS = ("http1", "httpx")
TICK_SECONDS = 0.02


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and self-signed certificate in one PEM, for 127.0.0.1 and personas.test."""
    pem = tmp_path_factory.mktemp("tls") / "personas.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "3650", "-subj", "/CN=personas.test", "-keyout", str(pem), "-out", f"{pem}.crt"),
            *("-addext", "subjectAltName=DNS:personas.test,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_bytes(pem.read_bytes() + Path(f"{pem}.crt").read_bytes())
    return pem


@asynccontextmanager
async def opened(kind: str, *urls: str | dict[str, Any], **settings: Any) -> AsyncIterator[Any]:
    """A transport to `urls`, closed afterwards."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, tick_seconds=TICK_SECONDS)
    section = UpstreamSection(targets=urls, transport=kind, **settings)  # type: ignore[arg-type]
    transport = open_transports({"personas": section}, deadlines, loop)["personas"]
    try:
        yield transport
    finally:
        await transport.aclose()
        deadlines.close()


@asynccontextmanager
async def opened_http1(url: str, **settings: Any) -> AsyncIterator[Http1Transport]:
    """Our own client alone, to one target."""
    async with opened("http1", url, **settings) as upstream:
        transport = upstream.members[0].transport
        assert isinstance(transport, Http1Transport)
        yield transport


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run on uvloop; nothing may be left running, and nothing may have gone to the loop's exception handler."""
    unhandled: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        await asyncio.wait_for(main(), 90)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.wait(left, timeout=30) if left else None
        assert not [task for task in left if not task.done()]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(guarded())
    assert unhandled == []


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll; fails when the condition does not come true in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        await asyncio.sleep(0.005)


def get(name: str, method: bytes = b"GET", **rest: Any) -> UpstreamRequest:
    return UpstreamRequest(method, b"/" + name.encode(), [(b"accept", b"*/*")], **rest)


async def read_all(response: UpstreamResponse) -> bytes:
    parts = []
    while part := await response.read():
        parts.append(part)
    return b"".join(parts)


async def outcome(transport: Transport | TargetTransport, request: UpstreamRequest) -> str:
    """What a caller sees of the answer, in the words of hostile.Behaviour.sees."""
    try:
        response = await transport.send(request)
    except UpstreamError as error:
        return {"upstream-unreachable": "unreachable", "bad-upstream-response": "bad", "upstream-timeout": "timeout"}[
            error.slug
        ]
    try:
        await read_all(response)
    except UpstreamTimeout:
        return "late"
    except UpstreamError:
        return "cut"
    finally:
        await response.aclose()
    return "whole"


def open_connections(transport: Upstream | Http1Transport) -> int:
    """Those in use."""
    open_count, idle_count, _ = transport.count_connections()
    return open_count - idle_count
