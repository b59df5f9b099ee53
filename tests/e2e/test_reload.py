"""The config is changed while calls run: none fails, and each pays the price that it was matched with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.e2e.audit import Books, open_holds
from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import TORTURE, Gateway, count, gateway, settings, until, until_async
from tests.e2e.open_loop import OpenLoop
from tests.e2e.upstream import Upstream

RELOADS = count(12, 50)
BROKEN = {RELOADS // 6 * number for number in range(1, 6)}
"""Which of them are broken files: five."""
GOOD = [number for number in range(RELOADS + 1) if number not in BROKEN]
CALLS_PER_SECOND = count(600, 1_000)
RATE_MIN = 0.95
"""What of that must have been reached: the load begins a little before it is reached, and ends after."""
CALLS_BETWEEN = count(40, 500)
"""Before each reload, and after it: more than there are under way."""
SLOW_PER_SECOND = 50
"""As many of them take SLOW_SECONDS: they outlive the config that they began with, and some the next one."""
SLOW_SECONDS = count(3, 10) / 10
CONNECTIONS = 16


def reloads(running: Gateway) -> int:
    return int(running.metric("gateway_config_reloads_total"))


def write(running: Gateway, config: object) -> None:
    """As a deployment does: the file is whole whenever somebody reads it."""
    fresh = running.config_file.with_suffix(".new")
    fresh.write_text(config if isinstance(config, str) else json.dumps(config))
    fresh.replace(running.config_file)


def priced(config: dict, cost: int, *targets: str) -> dict:
    route = {**config["routes"][0], "cost": cost}
    return {**config, "routes": [route], "upstreams": {"main": {"targets": list(targets)}}}


def change_under_load(running: Gateway, config: dict, upstreams: list[Upstream]) -> None:
    """Each file that is no broken one has a price of its own, and the other target than the one before."""
    wait_for_calls(upstreams)
    for number in range(1, RELOADS + 1):
        if number in BROKEN:
            write(running, "routes: [{path: /call/x")
        else:
            write(running, priced(config, price_of(number), upstreams[turn_of(number)].url))
        running.signal(signal.SIGHUP)
        until(lambda number=number: reloads(running) == number)
        wait_for_calls(upstreams)


def wait_for_calls(upstreams: list[Upstream]) -> None:
    done = arrived(upstreams)
    until(lambda: arrived(upstreams) > done + CALLS_BETWEEN)


def price_of(number: int) -> int:
    """What a call costs by a file; 0 is the one that the gateway began with."""
    return number + 1


def turn_of(number: int) -> int:
    """Which of the two targets it has."""
    return GOOD.index(number) % 2


def arrived(upstreams: list[Upstream]) -> int:
    return sum(len(upstream.seen) for upstream in upstreams)


@pytest.mark.parametrize("workers", [1, 2])
def test_reloads_under_load_fail_no_call_and_each_pays_the_price_it_was_matched_with(tmp_path: Path, workers: int):
    with Upstream() as one, Upstream() as other:
        one.slow_seconds = other.slow_seconds = SLOW_SECONDS
        config = settings(tmp_path, one.url, server={"workers": workers, "watch_config": False}, log={"access": False})
        with gateway(tmp_path, config) as running:
            secret, _ = running.create_key(100_000_000)
            running.start()
            quick, slow = tmp_path / "quick", tmp_path / "slow"
            load = {"port": running.port, "rate": CALLS_PER_SECOND - SLOW_PER_SECOND, "connections": CONNECTIONS}
            long = {"port": running.port, "rate": SLOW_PER_SECOND, "connections": 2 * SLOW_PER_SECOND}
            with (
                OpenLoop(**load, request=request(secret).decode(), answers_file=str(quick)) as loop,
                OpenLoop(**long, request=request(secret, "slow").decode(), answers_file=str(slow)) as slow_loop,
            ):
                change_under_load(running, config, [one, other])
                told = [loop.told(), slow_loop.told()]
            assert running.metric("gateway_config_reloads_total", result="refused") == len(BROKEN)
            assert running.stop() == 0
        rate = sum(each.rate for each in told)
        print(f"{workers} workers, {RELOADS} reloads, {rate:.0f} calls a second: {told}")
        for each in told:
            assert each == replace(each, refused=0, others=0, broken=0, unanswered=0)
        answers = answers_of(quick) | answers_of(slow)
        seen_by = [{seen.request_id: int(seen.get("x-gateway-cost")) for seen in each.seen} for each in (one, other)]
        assert answers == seen_by[0] | seen_by[1] == Books(running.database).charged
        assert len(answers) == sum(each.served for each in told) == arrived([one, other])
        # Each file was in force, and its price came with its target.
        assert [set(seen.values()) for seen in seen_by] == [
            {price_of(number) for number in GOOD if turn_of(number) == turn} for turn in (0, 1)
        ]
        assert open_holds(running.database) == 0
        if TORTURE:
            assert rate >= RATE_MIN * CALLS_PER_SECOND


def answers_of(file: Path) -> dict[str, int]:
    """What each call was told that it costs, by request id."""
    lines = [line.split() for line in file.read_text().splitlines()]
    assert {status for status, _, _ in lines} == {"200"}
    return {request_id: int(cost) for _, cost, request_id in lines}


def ready(running: Gateway) -> dict:
    answer = httpx.get(f"http://127.0.0.1:{running.port}/readyz")
    return {"status": answer.status_code, **answer.json()["checks"].get("config", {})}


def price(running: Gateway) -> int:
    return httpx.get(f"http://127.0.0.1:{running.port}/pricing").json()["routes"][0]["cost"]


def test_files_are_watched_and_a_bad_one_changes_nothing_and_says_so(tmp_path: Path):
    """Kubernetes' way to change a mounted file: `..data`, a link to a directory, is replaced by another one."""
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server={"workers": 2}, log={"access": False})
        secret_file = tmp_path / "token"
        secret_file.write_text("a-first-token")
        secret_file.chmod(0o600)
        config["identity"] = {"admin_token": f"${{file:{secret_file}}}"}
        with gateway(tmp_path, config) as running:
            mounted = running.config_file
            mount(mounted, config, "first")
            running.create_key(1)  # the database is there before two workers want to make it
            running.start()
            assert price(running) == 1
            mount(mounted, priced(config, 7, upstream.url), "second")
            until(lambda: price(running) == 7)
            until(lambda: prices_of_all(running) == {7})

            mount(mounted, "routes: 5\nadmin_token: a-first-token", "broken")
            until(lambda: ready(running).get("ok") is False)
            assert ready(running)["status"] == 200
            assert running.metric("gateway_config_last_reload_success") == 0
            assert prices_of_all(running) == {7}

            # A worker that dies now comes back with what is in force, not with the broken file.
            victim = running.workers()[0]
            victim.kill()
            until(
                lambda: len(running.workers()) == 2 and victim.pid not in [worker.pid for worker in running.workers()]
            )
            until(lambda: running.metric("gateway_workers") == 2)
            assert prices_of_all(running) == {7}
            assert ready(running).get("ok") is False

            mount(mounted, priced(config, 8, upstream.url), "third")
            until(lambda: prices_of_all(running) == {8} and ready(running).get("ok") is True)
            secret_file.write_text("a-second-token")
            until(lambda: "admin_token" in running.errors)
            until(lambda: listed(running, "a-second-token") == 200)
            assert running.stop() == 0
        assert "a-second-token" not in running.errors
        assert "a-first-token" not in running.errors


def mount(file: Path, config: object, version: str) -> None:
    directory = file.with_name(version)
    directory.mkdir()
    (directory / "config").write_text(config if isinstance(config, str) else json.dumps(config))
    data = file.with_name("..data")
    fresh = file.with_name("..fresh")
    fresh.symlink_to(version)
    fresh.replace(data)
    if not file.is_symlink():
        file.unlink()
        file.symlink_to(Path("..data") / "config")


def prices_of_all(running: Gateway) -> set[int]:
    """What several connections are told: each worker takes some of them."""
    return {price(running) for _ in range(8)}


def listed(running: Gateway, token: str) -> int:
    with contextlib.suppress(httpx.HTTPError):
        headers = {"authorization": f"Bearer {token}"}
        return httpx.get(f"http://127.0.0.1:{running.port}/api-keys", headers=headers).status_code
    return 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_change_that_needs_a_restart_is_refused_whole_and_named(tmp_path: Path, workers: int):
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server={"workers": workers, "watch_config": False})
        with gateway(tmp_path, config) as running:
            running.create_key(1)
            running.start()
            changed = priced(config, 9, upstream.url)
            changed["server"] = {**changed["server"], "port": 1, "workers": 3}
            changed["database"] = {"url": "sqlite:////elsewhere.db"}
            write(running, changed)
            running.signal(signal.SIGHUP)
            until(lambda: "config not reloaded" in running.errors)
            for key in ("server.port", "server.workers", "database.url"):
                assert f"{key} can't change without a restart" in running.errors
            assert price(running) == 1

            write(running, priced(config, 9, upstream.url))
            running.signal(signal.SIGHUP)
            until(lambda: prices_of_all(running) == {9})
            assert "routes[POST /call/{what}].cost: 1 -> 9" in running.errors
            assert running.stop() == 0


def test_a_call_in_flight_keeps_its_upstream_which_closes_after_it(tmp_path: Path):
    """The old target is drained: its last call ends well, then no connection to it is left."""
    with Upstream() as old, Upstream() as new:
        old.chunks, old.pause_seconds = 10, 0.2
        config = settings(tmp_path, old.url, server={"watch_config": False}, log={"access": False})
        with gateway(tmp_path, config) as running:
            secret, _ = running.create_key(1_000)
            running.start()

            async def run() -> tuple[Answer, Answer]:
                async with await Caller.open(running.port) as first, await Caller.open(running.port) as second:
                    streaming = asyncio.create_task(first.call(request(secret, "stream")))
                    await until_async(lambda: old.answered)
                    write(running, priced(config, 5, new.url))
                    running.signal(signal.SIGHUP)
                    await asyncio.to_thread(until, lambda: reloads(running) == 1)
                    after = await second.call(request(secret))
                    assert not streaming.done()
                    return await streaming, after

            before, after = asyncio.run(run())
            assert (before.status, before.whole, before.cost) == (200, True, 1)
            assert (after.status, after.cost) == (200, 5)
            assert len(old.seen) == 1
            assert len(new.seen) == 1
            assert running.process is not None
            until(lambda: not connections_to(running.process.pid, old.port))
            assert connections_to(running.process.pid, new.port)
            assert running.stop() == 0


def test_a_reload_lets_nobody_begin_anew(tmp_path: Path):
    """Who had used up what his route allows, or has as many calls under way, has so with the new config too."""
    with Upstream() as upstream:
        config = settings(tmp_path, upstream.url, server={"watch_config": False}, log={"access": False})
        route = config["routes"][0]
        few = {**route, "path": "/few/{what}", "concurrency_per_key": 1}
        rare = {**route, "path": "/rare/{what}", "rate_limit_per_address": {"limit": 1, "window_seconds": 3600}}
        config["routes"] = [few, rare]
        with gateway(tmp_path, config) as running:
            secret, _ = running.create_key(1_000)
            running.start()

            async def run() -> list[str]:
                async with await Caller.open(running.port) as busy, await Caller.open(running.port) as caller:
                    busy.send(asking(secret, "few", "hang"))
                    await until_async(lambda: upstream.seen)
                    assert (await caller.call(asking(secret, "rare"))).status == 200
                    write(running, {**config, "routes": [{**few, "cost": 2}, {**rare, "cost": 2}]})
                    running.signal(signal.SIGHUP)
                    await asyncio.to_thread(until, lambda: reloads(running) == 1)
                    return [(await caller.call(asking(secret, path))).slug for path in ("few", "rare")]

            assert asyncio.run(run()) == ["too-many-at-once", "rate-limited"]
            assert running.stop() == 0


def asking(secret: str, path: str, what: str = "ok") -> bytes:
    return request(secret, what).replace(b"/call/", f"/{path}/".encode())


def connections_to(pid: int, port: int) -> list[object]:
    import psutil

    return [
        connection
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.raddr and connection.raddr.port == port and connection.status == "ESTABLISHED"
    ]
