"""Many event streams at once on one worker: each costs little, none is dropped, and new calls don't notice.

The callers and the upstream are processes of their own: the gateway has its processor time and its open files for
itself. The full count wants 16,500 of those: `ulimit -Hn`.
"""

from __future__ import annotations

import time

import psutil

from tests.e2e.beside import Beside
from tests.e2e.caller import request
from tests.e2e.harness import TORTURE, Gateway, allow_many_sockets, count, gateway, settings, until
from tests.e2e.open_loop import OpenLoop, Told

STREAMS = count(200, 8_000)
BYTES_MAX = count(64, 24) * 1024
"""A few streams carry what many share."""
OPEN_SECONDS = count(0, 60)
EVENTS_PER_SECOND = count(400, 800)
EVENTS_MIN = count(1, 5)
"""Of each stream in that time: one in half a second, and one in 10 s."""
LONELY_SECONDS = count(2, 50) / 10
IDLE_RATIO_MAX = 3


def lonely_calls(running: Gateway, key: str) -> Told:
    """Calls of one caller, one after the other."""
    words = {"port": running.port, "request": request(key).decode(), "connections": 1, "seconds": LONELY_SECONDS}
    with OpenLoop(**words) as loop:
        told = loop.told()
    assert (told.refused, told.others, told.broken, told.unanswered) == (0, 0, 0, 0)
    return told


def test_open_streams_cost_little_and_none_is_dropped(tmp_path):
    allow_many_sockets()
    with Beside("event_source", events_per_second=EVENTS_PER_SECOND) as source:
        target = f"http://127.0.0.1:{source.read()['port']}"
        config = settings(
            tmp_path, target, server={"connections_max": 20_000}, upstream={"connections_max": STREAMS + 10}
        )
        with gateway(tmp_path, config) as running:
            key, _ = running.create_key(1_000_000)
            running.start()
            process = psutil.Process(running.process.pid)
            idle = lonely_calls(running, key)
            before = process.memory_info().rss
            words = {"port": running.port, "request": request(key, "events").decode(), "streams": STREAMS}
            with Beside("stream_callers", **words) as callers:
                assert callers.read()["open"] == STREAMS
                callers.ask("anew")
                time.sleep(OPEN_SECONDS)
                until(lambda: (told := callers.ask())["fewest"] >= EVENTS_MIN or told["closed"])
                bytes_each = (process.memory_info().rss - before) / STREAMS
                busy = lonely_calls(running, key)
                sent = source.ask("stop")["sent"]
                until(lambda: (told := callers.ask())["received"] >= sent or told["closed"])
                told = callers.ask()
                print(f"{told}, {bytes_each / 1024:.1f} KiB each, p99 {idle.served_p99} → {busy.served_p99} ms")
                assert (told["open"], told["closed"], told["received"]) == (STREAMS, 0, sent)
            assert bytes_each <= BYTES_MAX
            assert "Traceback" not in running.errors
            if TORTURE:
                assert busy.served_p99 <= IDLE_RATIO_MAX * idle.served_p99
