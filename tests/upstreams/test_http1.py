"""What only our own client promises: reuse, retries, early and two-way answers, tunnels, flat memory."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator

import pytest

from gateway.errors import BadUpstreamResponse, InternalError, UpstreamTimeout, UpstreamUnreachable
from gateway.upstreams.http1_connection import BUFFERED_BYTES_MAX
from gateway.upstreams.transport import UpstreamRequest
from tests.upstreams.conftest import get, opened_http1, read_all, run, until
from tests.upstreams.hostile import ScriptedUpstream

READ_BYTES_MAX = 262_144
"""uvloop's largest single read: what may come on top before reading pauses."""

HANDSHAKE = [
    (b"sec-websocket-key", base64.b64encode(b"0123456789abcdef")),
    (b"sec-websocket-version", b"13"),
]


# Reuse.


@pytest.mark.parametrize(
    ("name", "method", "reused"),
    [
        ("ok", b"GET", True),
        ("empty", b"GET", True),
        ("chunked", b"GET", True),
        ("trailers", b"GET", True),
        ("trailers-bytewise", b"GET", True),
        ("continue", b"GET", True),
        ("early-hints", b"GET", True),
        ("head", b"HEAD", False),
        ("head-chunked", b"HEAD", False),
        ("204", b"GET", True),
        ("304", b"GET", True),
        ("205", b"GET", True),
        ("echo", b"POST", True),
        ("close-announced", b"GET", False),
        ("close-delimited", b"GET", False),
        ("http-1.0", b"GET", False),
        ("length-long", b"GET", False),
    ],
)
def test_only_a_clean_connection_is_reused(name: str, method: bytes, reused: bool, upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            for _ in range(3):
                await read_all(await transport.send(get(name, method)))
            assert len({seen.connection for seen in upstream.seen}) == (1 if reused else 3)

    run(main)


def test_the_connection_used_last_is_used_first(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            await asyncio.gather(*[transport.send(get("slow")) for _ in range(4)])
            before = len(upstream.seen)
            for _ in range(5):
                await transport.send(get("ok"))
            assert len({seen.connection for seen in upstream.seen[before:]}) == 1

    run(main)


def test_a_small_answer_comes_whole_with_its_connection_already_free(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            response = await transport.send(get("trailers"))
            assert response.body == b"hello, world"
            assert response.trailers == [(b"x-credits-used", b"3"), (b"x-b", b"4")]
            assert transport.pool.idle_count == 1

    run(main)


def test_trailers_are_there_after_the_end_of_a_streamed_body(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            response = await transport.send(get("trailers-bytewise"))
            assert await read_all(response) == b"hello, world"
            assert dict(response.trailers) == {b"x-credits-used": b"3", b"x-b": b"4"}
            assert not any(name == b"x-credits-used" for name, _ in response.headers)

    run(main)


def test_idle_connections_are_closed_after_the_keep_alive_time(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, keep_alive_timeout_seconds=0.1) as transport:
            await transport.send(get("ok"))
            await until(lambda: transport.pool.open_count == 0)
            await until(lambda: upstream.open_connections == 0)

    run(main)


def test_bytes_nobody_asked_for_close_an_idle_connection(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            assert (await transport.send(get("afterthought"))).body == b"ok"
            assert transport.pool.idle_count == 1
            upstream.afterthought.set()
            await until(lambda: transport.pool.open_count == 0)
            assert (await transport.send(get("ok"))).body == b"ok"

    run(main)


# Stale connections.


def test_a_connection_closed_while_idle_is_not_used_again(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            for _ in range(5):
                assert (await transport.send(get("closes-after", b"POST", body=b"{}"))).status == 200
                await until(lambda: transport.pool.open_count == 0)
            assert len(upstream.seen) == 5

    run(main)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"])
def test_an_idempotent_request_on_a_stale_connection_is_sent_once_more(
    method: bytes, upstream: ScriptedUpstream
) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            await transport.send(get("closes-on-reuse"))
            response = await transport.send(get("closes-on-reuse", method))
            assert response.status == 200
            assert [seen.connection for seen in upstream.seen] == [0, 0, 1]
            assert transport.pool.open_count <= 1

    run(main)


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
def test_a_paid_request_on_a_stale_connection_is_never_sent_twice(method: bytes, upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            await transport.send(get("closes-on-reuse"))
            with pytest.raises(UpstreamUnreachable) as caught:
                await transport.send(get("closes-on-reuse", method, body=b"{}"))
            assert caught.value.possibly_executed is True
            assert len(upstream.seen) == 2

    run(main)


def test_a_streamed_body_is_never_sent_twice(upstream: ScriptedUpstream) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{}"

    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            await transport.send(get("closes-on-reuse"))
            with pytest.raises(UpstreamUnreachable):
                await transport.send(get("closes-on-reuse", b"PUT", body=body()))
            assert len(upstream.seen) == 2

    run(main)


def test_a_fresh_connection_that_closes_is_not_retried(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            with pytest.raises(UpstreamUnreachable):
                await transport.send(get("close-before-head"))
            assert len(upstream.seen) == 1

    run(main)


# Both ways at once.


def test_an_early_answer_is_delivered_while_the_body_is_still_sent(upstream: ScriptedUpstream) -> None:
    closed = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b"x" * 1000
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            response = await asyncio.wait_for(transport.send(get("early", b"POST", body=body())), 15)
            assert (response.status, await read_all(response)) == (413, b"no")
            await asyncio.wait_for(closed.wait(), 15)
            await until(lambda: transport.pool.open_count == 0)

    run(main)


def test_a_connection_with_half_a_request_on_it_is_not_reused(upstream: ScriptedUpstream) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await asyncio.Event().wait()

    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            response = await transport.send(get("early-open", b"POST", body=body()))
            assert await read_all(response) == b"ok"
            assert (await transport.send(get("ok"))).status == 200
            assert [seen.connection for seen in upstream.seen] == [0, 1]

    run(main)


def test_request_and_response_stream_at_the_same_time(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        asked: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            while (chunk := await asked.get()) is not None:
                yield chunk

        async with opened_http1(upstream.url) as transport:
            response = await transport.send(get("duplex", b"POST", body=body()))
            for word in (b"one", b"two", b"three"):
                asked.put_nowait(word)
                assert await asyncio.wait_for(response.read(), 15) == word
            asked.put_nowait(None)
            assert await asyncio.wait_for(response.read(), 15) == b""
            assert transport.pool.idle_count == 1

    run(main)


def test_a_body_that_fails_after_the_head_fails_the_reader(upstream: ScriptedUpstream) -> None:
    class CallerLeft(Exception):
        pass

    async def main() -> None:
        leave = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"one"
            await leave.wait()
            raise CallerLeft

        async with opened_http1(upstream.url) as transport:
            response = await transport.send(get("duplex", b"POST", body=body()))
            assert await response.read() == b"one"
            leave.set()
            with pytest.raises(CallerLeft):
                await response.read()
            assert transport.pool.open_count == 0

    run(main)


def test_memory_is_flat_while_an_endless_body_meets_a_slow_reader(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            response = await transport.send(get("endless"))
            for _ in range(30):
                await asyncio.sleep(0.01)
                assert response.buffered_bytes <= BUFFERED_BYTES_MAX + READ_BYTES_MAX
                assert len(await response.read()) <= BUFFERED_BYTES_MAX + READ_BYTES_MAX
            await response.aclose()
            assert response.buffered_bytes == 0
            assert response.chunks == []
            with pytest.raises(UpstreamUnreachable):
                await response.read()

    run(main)


def test_a_cancelled_read_closes_the_connection(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            response = await transport.send(get("chunked-silent"))
            assert await response.read() == b"hello"
            reading = asyncio.create_task(response.read())
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
            assert transport.pool.open_count == 0
            await until(lambda: upstream.open_connections == 0)

    run(main)


# Tunnels.


def test_an_asked_101_opens_a_tunnel(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            request = UpstreamRequest(b"GET", b"/tunnel", HANDSHAKE, upgrade=b"websocket")
            response = await transport.send(request)
            assert (response.status, response.body) == (101, None)
            assert upstream.seen[0].header("connection") == ["upgrade"]
            assert upstream.seen[0].header("upgrade") == ["websocket"]
            assert await response.read() == b"first", "bytes right behind the head belong to the tunnel"
            await response.write(b"\x81\x05hello")
            assert await response.read() == b"\x81\x05hello"
            blob = os.urandom(3_000_000)
            writing = asyncio.create_task(response.write(blob))
            back = b""
            while len(back) < len(blob):
                back += await response.read()
            await writing
            assert back == blob
            await response.aclose()
            assert transport.pool.open_count == 0
            await until(lambda: upstream.open_connections == 0)
            with pytest.raises(UpstreamUnreachable):
                await response.write(b"x")

    run(main)


def test_a_silent_tunnel_times_out(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, idle_timeout_seconds=0.1) as transport:
            response = await transport.send(UpstreamRequest(b"GET", b"/tunnel", HANDSHAKE, upgrade=b"websocket"))
            assert await response.read() == b"first"
            with pytest.raises(UpstreamTimeout):
                await response.read()

    run(main)


def test_a_switch_to_another_protocol_than_asked_is_refused(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            with pytest.raises(BadUpstreamResponse):
                await transport.send(UpstreamRequest(b"GET", b"/tunnel", HANDSHAKE, upgrade=b"h2c"))

    run(main)


def test_an_upgrade_may_be_answered_like_any_request(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            response = await transport.send(UpstreamRequest(b"GET", b"/503", HANDSHAKE, upgrade=b"websocket"))
            assert (response.status, response.body) == (503, b"busy")

    run(main)


# What is sent.


@pytest.mark.parametrize(
    "request_",
    [
        UpstreamRequest(b"GET", b"/ok", [(b"x-gateway-user", b"a\r\nX: y")]),
        UpstreamRequest(b"GET", b"/ok", [(b"x-gateway-user", b"a\nX: y")]),
        UpstreamRequest(b"GET", b"/ok", [(b"x-gateway-user", b"a\rb")]),
        UpstreamRequest(b"GET", b"/ok", [(b"x-gateway-user", b"a\0b")]),
        UpstreamRequest(b"GET", b"/ok HTTP/1.1\r\nX: y\r\n\r\n", []),
        UpstreamRequest(b"GET", b"/ok x", []),
        UpstreamRequest(b"GET /x", b"/ok\r\n", []),
    ],
)
def test_nothing_can_split_a_request(request_: UpstreamRequest, upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            with pytest.raises(InternalError):
                await transport.send(request_)
            assert upstream.connection_count == 0
            assert transport.pool.open_count == 0

    run(main)
