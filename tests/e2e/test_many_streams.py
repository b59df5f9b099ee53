"""Many event streams at once on one worker: each costs little, none is dropped, and new calls don't notice.

The full count wants 16,000 open files for the gateway: `ulimit -Hn`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import psutil

from tests.e2e.caller import Caller, call, request
from tests.e2e.harness import TORTURE, allow_many_sockets, count, gateway, settings
from tests.e2e.upstream import Upstream

STREAMS = count(200, 3_500)
"""The callers and the upstream are one process here, and each stream is a socket of either."""
BYTES_MAX = count(64, 24) * 1024
"""A few streams carry what many share."""
AT_ONCE = 50
CALLS = 500
IDLE_RATIO_MAX = 3


async def quick(port: int, key: str) -> float:
    """The time within which 99 % of lonely calls are answered, in seconds."""
    times = []
    async with await Caller.open(port) as caller:
        for _ in range(CALLS):
            began = time.perf_counter()
            assert (await caller.call(request(key))).status == 200
            times.append(time.perf_counter() - began)
    return sorted(times)[CALLS * 99 // 100]


def test_open_streams_cost_little_and_none_is_dropped(tmp_path):
    allow_many_sockets()
    config = settings(tmp_path, "http://127.0.0.1:1", server={"connections_max": 20_000})
    with Upstream() as upstream:
        upstream.chunks = 1_000_000
        upstream.pause_seconds = count(1, 10)
        config["upstreams"]["main"] = {"targets": [upstream.url], "connections_max": STREAMS + 10}
        with gateway(tmp_path, config) as running:
            key, _ = running.create_key(1_000_000)
            running.start()
            asyncio.run(keep_open(running, key))
            assert "Traceback" not in running.errors


async def keep_open(running, key: str) -> None:
    process = psutil.Process(running.process.pid)
    idle = await quick(running.port, key)
    before = process.memory_info().rss
    async with contextlib.AsyncExitStack() as stack:
        streams: list[Caller] = []
        while len(streams) < STREAMS:
            opening = [await stack.enter_async_context(await Caller.open(running.port)) for _ in range(AT_ONCE)]
            for caller in opening:
                caller.send(request(key, "events"))
            for caller in opening:
                assert b" 200 " in await caller.reader.readuntil(b"\r\n\r\n")
            streams += opening
        await asyncio.sleep(count(0, 60))
        bytes_each = (process.memory_info().rss - before) / len(streams)
        busy = await quick(running.port, key)
        print(f"{len(streams)} streams: {bytes_each / 1024:.1f} KiB each, p99 {idle * 1e3:.1f} → {busy * 1e3:.1f} ms")
        assert bytes_each <= BYTES_MAX
        assert not any(caller.reader.at_eof() for caller in streams)
        for caller in streams:
            await asyncio.wait_for(caller.reader.readuntil(b"data: "), 30)
        assert (await call(running.port, request(key))).status == 200
        if TORTURE:
            assert busy <= IDLE_RATIO_MAX * idle
