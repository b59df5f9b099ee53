"""The pool's bounds, and that no cancellation can lose a connection, a place or a turn."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from gateway.errors import NoHealthyTarget, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from gateway.upstreams.http1 import Http1Transport
from tests.upstreams.conftest import get, opened_http1, read_all, run, until
from tests.upstreams.hostile import ScriptedUpstream, blackhole_port, refusing_port

TORTURE = bool(os.environ.get("TORTURE"))


def is_at_rest(transport: Http1Transport) -> bool:
    pool = transport.pool
    return pool.open_count == pool.idle_count and pool.waiting_count == 0


def test_no_more_connections_than_allowed_and_everyone_is_served(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, connections_max=3, connection_wait_seconds=5) as transport:
            calls = [asyncio.create_task(transport.send(get("slow"))) for _ in range(12)]
            while not all(call.done() for call in calls):
                assert transport.pool.open_count <= 3
                await asyncio.sleep(0.005)
            assert [call.result().status for call in calls] == [200] * 12
            assert upstream.connection_count == 3

    run(main)


def test_waiting_for_a_connection_ends_in_time(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, connections_max=1, connection_wait_seconds=0.1) as transport:
            busy = asyncio.create_task(transport.send(get("no-head")))
            await until(lambda: bool(upstream.seen))
            with pytest.raises(NoHealthyTarget) as caught:
                await asyncio.wait_for(transport.send(get("ok")), 15)
            assert caught.value.possibly_executed is False
            assert transport.pool.waiting_count == 0
            busy.cancel()
            await asyncio.wait([busy])
            assert (await transport.send(get("ok"))).status == 200

    run(main)


def test_a_full_queue_refuses_at_once(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, connections_max=1, connection_wait_seconds=20) as transport:
            calls = [asyncio.create_task(transport.send(get("no-head"))) for _ in range(5)]
            await until(lambda: bool(upstream.seen) and transport.pool.waiting_count == 4)
            with pytest.raises(NoHealthyTarget):
                await asyncio.wait_for(transport.send(get("ok")), 15)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert (await transport.send(get("ok"))).status == 200

    run(main)


def test_a_waiter_cancelled_as_it_gets_a_connection_passes_it_on(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, connections_max=1) as transport:
            pool = transport.pool
            await transport.send(get("ok"))
            connection = pool.take()
            assert connection is not None
            first = asyncio.create_task(pool.acquire())
            second = asyncio.create_task(pool.acquire())
            await until(lambda: pool.waiting_count == 2)
            pool.give_back(connection)
            first.cancel()  # handed to it, not yet known to it
            assert await asyncio.wait_for(second, 15) is connection
            assert first.cancelled()
            pool.give_back(connection)
            assert (pool.open_count, pool.idle_count) == (1, 1)

    run(main)


def test_a_connection_whose_caller_left_serves_the_next(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, connections_max=1) as transport:
            first = asyncio.create_task(transport.send(get("ok")))
            await asyncio.sleep(0)
            first.cancel()
            assert (await transport.send(get("ok"))).status == 200
            assert (upstream.connection_count, len(upstream.seen)) == (1, 1)

    run(main)


def test_a_fresh_connection_is_never_one_that_was_used(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, connections_max=2) as transport:
            pool = transport.pool
            await transport.send(get("ok"))
            used = pool.take()
            assert used is not None
            taking = asyncio.create_task(pool.acquire_fresh())
            await asyncio.sleep(0)
            pool.give_back(used)
            fresh = await taking
            assert fresh is not used
            assert not fresh.used
            pool.give_back(fresh)
            # At the limit the oldest idle one makes room.
            pool.give_back(await pool.acquire_fresh())
            assert not used.open
            assert (pool.open_count, pool.idle_count) == (2, 2)

    run(main)


def test_refused_connections_fail_every_waiter_at_once(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        with refusing_port() as port:
            async with opened_http1(f"http://127.0.0.1:{port}", connections_max=2) as transport:
                calls = [transport.send(get("ok")) for _ in range(10)]
                results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 15)
                assert {type(result) for result in results} <= {UpstreamUnreachable, NoHealthyTarget}
                assert is_at_rest(transport)
                assert transport.pool.open_count == 0

    run(main)


def test_a_blackhole_holds_nobody_longer_than_the_deadlines() -> None:
    async def main() -> None:
        with blackhole_port() as port:
            limits = {"connections_max": 2, "connect_timeout_seconds": 0.3, "connection_wait_seconds": 0.1}
            async with opened_http1(f"http://127.0.0.1:{port}", **limits) as transport:
                calls = [transport.send(get("ok")) for _ in range(8)]
                results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 15)
                kinds = [type(result) for result in results]
                assert kinds.count(UpstreamTimeout) == 2
                assert kinds.count(NoHealthyTarget) == 6
                assert all(not result.possibly_executed for result in results if isinstance(result, UpstreamError))
                assert transport.pool.open_count == 0

    run(main)


def test_calls_cancelled_at_any_moment_leave_the_pool_as_it_was(upstream: ScriptedUpstream) -> None:
    """The storm: every kind of answer, every moment, more callers than connections."""
    count = 20_000 if TORTURE else 2_000
    seed = int(os.environ.get("STORM_SEED", "20261123"))

    async def main() -> None:
        chance = random.Random(seed)
        names = ("ok", "ok", "ok", "chunked", "slow", "close-announced", "close-before-head", "length-short", "endless")
        async with opened_http1(upstream.url, connections_max=8, connection_wait_seconds=0.2) as transport:

            async def call() -> None:
                response = await transport.send(get(chance.choice(names), chance.choice((b"GET", b"POST")), body=b"{}"))
                for _ in range(3):
                    if not await response.read():
                        break
                await response.aclose()

            started = 0
            while started < count:
                calls = [asyncio.create_task(call()) for _ in range(25)]
                started += 25
                while not all(task.done() for task in calls):
                    for _ in range(chance.randrange(6)):
                        await asyncio.sleep(0)
                    if chance.random() < 0.1:
                        await asyncio.sleep(0.001)
                    chance.choice(calls).cancel()
                for result in await asyncio.gather(*calls, return_exceptions=True):
                    assert result is None or isinstance(result, (UpstreamError, asyncio.CancelledError)), result
                assert transport.pool.open_count <= 8
            await until(lambda: is_at_rest(transport))
            assert transport.pool.open_count <= 8
            for _ in range(100):
                response = await transport.send(get("ok", b"POST", body=b"{}"))
                assert await read_all(response) == b"ok"
            assert is_at_rest(transport)
            await until(lambda: upstream.open_connections == transport.pool.open_count)

    run(main)
