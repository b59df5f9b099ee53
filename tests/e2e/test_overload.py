"""Three times as much as a gateway can do: most of what it can is still done, in time, and the rest is told so.

Ratios of one run, printed. They are asserted in `make torture` alone: a machine that does other things has others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psutil
import pytest

from tests.e2e.beside import Beside
from tests.e2e.caller import request
from tests.e2e.harness import TORTURE, allow_many_sockets, count, gateway, settings
from tests.e2e.open_loop import OpenLoop, Told

CONNECTIONS = count(300, 2_000)
SECONDS = count(1, 10)
TIMES = 3
GROWTH_MAX_BYTES = 128 * 1024 * 1024


@contextlib.contextmanager
def a_core_of_its_own(pid: int) -> Iterator[None]:
    """One for the gateway, the others for the load and the upstream, which are elsewhere in earnest: else the system
    lets the gateway wait for them, and what is measured is that. In `make torture` alone, where nothing else runs."""
    cores = sorted(os.sched_getaffinity(0))
    if not TORTURE or len(cores) < 2:
        yield
        return
    pin(pid, cores[:1])
    pin(os.getpid(), cores[1:])
    try:
        yield
    finally:
        pin(os.getpid(), cores)


def pin(pid: int, cores: list[int]) -> None:
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), cores)


def load(running, key: str, connections: int, rate: float = 0) -> Told:
    words = {"port": running.port, "request": request(key).decode(), "connections": connections, "seconds": SECONDS}
    with OpenLoop(**words, rate=rate) as loop:
        told = loop.told()
    print(told)
    assert (told.others, told.broken, told.unanswered) == (0, 0, 0)
    return told


@pytest.fixture
def upstream() -> Iterator[str]:
    """In a process of its own, and quick: it shares its core with the load, and would else be what is measured."""
    with Beside("event_source", events_per_second=0) as source:
        yield f"http://127.0.0.1:{source.read()['port']}"


def test_three_times_the_load_is_served_at_full_rate_and_the_rest_is_told(tmp_path, upstream):
    allow_many_sockets()
    config = settings(tmp_path, "http://127.0.0.1:1", log={"access": False})
    config["upstreams"]["main"]["targets"] = [upstream]
    with gateway(tmp_path, config) as running:
        key, _ = running.create_key(None)
        running.start()
        process = psutil.Process(running.process.pid)
        with a_core_of_its_own(process.pid):
            normal = load(running, key, 32)
            before = process.memory_info().rss
            flooded = load(running, key, CONNECTIONS, TIMES * normal.rate)
            growth = process.memory_info().rss - before
            after = load(running, key, 32)
        assert normal.refused == after.refused == 0
        assert flooded.served
        assert growth < GROWTH_MAX_BYTES
        if TORTURE:
            assert flooded.rate >= 0.8 * normal.rate
            assert flooded.served_p99 <= 2 * normal.served_p99
            assert after.rate >= 0.8 * normal.rate
        assert "Traceback" not in running.errors
