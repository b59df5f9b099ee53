"""The admin listener of two workers: it shows what they do, and orders reach both. Its numbers: test_metrics.py."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from pathlib import Path

import httpx

from tests import preloaded
from tests.e2e.caller import Caller, call, request
from tests.e2e.harness import COMMAND, Gateway, gateway, settings, until, until_async
from tests.e2e.test_reload import priced, prices_of_all, write
from tests.e2e.upstream import Upstream


def admin(running: Gateway, path: str, method: str = "GET", **options) -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{running.admin_port}{path}", **options)


def command(running: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    address = f"http://127.0.0.1:{running.admin_port}"
    return preloaded.run(
        [COMMAND, *arguments, "--admin", address],
        check=False,
        capture_output=True,
        text=True,
        cwd=running.directory,
    )


def test_two_workers_show_what_they_do_and_what_is_asked_of_one_both_do(tmp_path: Path):
    with Upstream() as upstream:
        upstream.slow_seconds = 60
        server = {"workers": 2, "watch_config": False, "timing_headers": True}
        config = settings(tmp_path, upstream.url, server=server, identity={"admin_token": "a-token-to-hide"})
        with gateway(tmp_path, config) as running:
            secret, key_id = running.create_key(1_000_000)
            running.start()
            timed = asyncio.run(call(running.port, request(secret))).headers
            assert float(timed["x-gateway-time-ms"]) >= 0
            assert timed["server-timing"].startswith("gateway;dur=")

            shown = admin(running, "/config")
            assert shown.json()["routes"][0]["cost"] == 1
            assert "a-token-to-hide" not in shown.text
            upstreams = admin(running, "/upstreams").json()
            assert upstreams["worker"] in [worker.pid for worker in running.workers()]
            assert upstreams["upstreams"][0]["targets"][0]["target"] == upstream.url
            asyncio.run(see_a_hold(running, secret, key_id))
            order_both(running, config, upstream)
            assert running.stop() == 0


async def see_a_hold(running: Gateway, secret: str, key_id: str) -> None:
    async with await Caller.open(running.port) as caller:
        caller.send(request(secret, "slow"))

        def holds() -> list[dict]:
            return admin(running, "/holds").json()["holds"]

        await until_async(holds)
        (hold,) = holds()
        assert (hold["key_id"], hold["route"], hold["cost"]) == (key_id, "/call/{what}", 1)
        assert hold["age_seconds"] >= 0
    await until_async(lambda: not holds())


def order_both(running: Gateway, config: dict, upstream: Upstream) -> None:
    """A level and a config, asked of whichever worker takes the connection."""
    assert admin(running, "/log-level", "PUT", json={"level": "debug"}).status_code == 200
    for _ in range(16):
        httpx.get(f"http://127.0.0.1:{running.port}/bad%2fpath")
    write(running, priced(config, 3, upstream.url))
    done = command(running, "reload")
    assert (done.returncode, done.stderr) == (0, "")
    assert "routes[POST /call/{what}].cost: 1 -> 3" in done.stdout
    assert prices_of_all(running) == {3}
    assert command(running, "reload").stdout == "nothing is different\n"

    write(running, "routes: 7")
    refused = command(running, "reload", "--json")
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["result"] == "refused"
    assert "gateway.yaml:1:9: routes" in json.loads(refused.stdout)["problems"][0]
    assert prices_of_all(running) == {3}
    assert running.metric("gateway_config_reloads_total", result="refused") == 1

    table = command(running, "top", "--once", "--interval", "0.2")
    assert table.returncode == 0, table.stderr
    assert "/call/{what}" in table.stdout
    assert "2 workers" in table.stdout
    assert re.search(r"^http://127\.0\.0\.1:\d+ +main +up +0", table.stdout, re.MULTILINE), table.stdout
    document = json.loads(command(running, "top", "--json", "--interval", "0.2").stdout)
    assert {"/call/{what}"} <= {route["route"] for route in document["routes"]}


def test_a_worker_that_can_not_take_a_config_keeps_all_from_it(tmp_path: Path):
    """Two phases: what one can't prepare, none serves by. A worker that is silent is waited for, not for ever."""
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server={"workers": 2, "watch_config": False}, log={"access": False})
        with gateway(tmp_path, config) as running:
            running.create_key(1)
            running.start()
            broken = priced(config, 4, upstream.url)
            broken["upstreams"]["main"] = {"targets": ["https://127.0.0.1:1"], "tls": {"ca_file": "/nowhere.pem"}}
            write(running, broken)
            assert command(running, "reload").returncode == 2
            assert prices_of_all(running) == {1}

            write(running, priced(config, 5, upstream.url))
            asleep, awake = running.workers()
            asleep.suspend()
            running.signal(signal.SIGHUP)
            until(lambda: f"worker {asleep.pid} does not answer" in running.errors, 20)
            asleep.resume()
            assert awake.is_running()
            assert prices_of_all(running) == {1}
            until(lambda: command(running, "reload").returncode == 0)
            assert prices_of_all(running) == {5}
            assert running.stop() == 0
