"""Several targets as one upstream: who gets the calls, who gets none, what is tried again. For both transports."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.errors import NoHealthyTarget, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from gateway.upstreams.upstream import LOOK_SECONDS, Upstream
from tests.upstreams.conftest import get, open_connections, opened, read_all, run, until
from tests.upstreams.hostile import OK, Peer, ScriptedUpstream, Seen, answers, blackhole_port, refusing_port

QUICK = {"response_timeout_seconds": 1, "idle_timeout_seconds": 1, "connect_timeout_seconds": 1}
BRISK = {"seconds": 1, "max_seconds": 2, "slow_start_seconds": 0}
FAILED = b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n"
FINE = OK + b"Content-Length: 2\r\n\r\nok"
FAILS = {"ok": answers(FAILED)}


def cuts(peer: Peer, seen: Seen) -> bool:
    return False


async def ask(upstream: Upstream, method: bytes = b"POST", **rest: object) -> int:
    response = await upstream.send(get("ok", method, body=b"{}", **rest) if method != b"GET" else get("ok"))
    await read_all(response)
    await response.aclose()
    return response.status


def states(upstream: Upstream) -> list[str]:
    return [status.state for status in upstream.status()]


async def failures(upstream: Upstream, count: int, method: bytes = b"POST") -> Counter[str]:
    """What `count` calls, one after the other, came to."""
    seen: Counter[str] = Counter()
    for _ in range(count):
        try:
            seen[str(await ask(upstream, method))] += 1
        except UpstreamError as error:
            seen[error.slug] += 1
    return seen


# Who gets the calls.


def test_idle_targets_share_the_calls_by_their_weights_to_the_letter(kind: str) -> None:
    async def main() -> None:
        with ScriptedUpstream() as one, ScriptedUpstream() as three:
            async with opened(kind, one.url, {"url": three.url, "weight": 3}) as upstream:
                for _ in range(40):
                    assert await ask(upstream) == 200
                    # httpx winds an exchange up after its end, and looks busy while it does.
                    await until(lambda: open_connections(upstream) == 0)
            assert (len(one.seen), len(three.seen)) == (10, 30)

    run(main)


def test_a_busy_target_is_passed_over(kind: str) -> None:
    async def main() -> None:
        with ScriptedUpstream(scripts={"ok": lambda peer, seen: peer.hang()}) as hung, ScriptedUpstream() as well:
            async with opened(kind, hung.url, well.url, response_timeout_seconds=20) as upstream:
                stuck = asyncio.create_task(ask(upstream))
                while not hung.seen:
                    await asyncio.sleep(0.005)
                    if stuck.done():
                        stuck = asyncio.create_task(ask(upstream))
                before = len(well.seen)
                for _ in range(30):
                    assert await asyncio.wait_for(ask(upstream), 5) == 200
                assert (len(hung.seen), len(well.seen) - before) == (1, 30)
                stuck.cancel()
                await asyncio.wait([stuck])

    run(main)


# What is tried again.


def test_a_refused_call_is_tried_at_another_target_whatever_its_method_and_body(kind: str) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        yield b"}"

    async def main() -> None:
        with refusing_port() as port, ScriptedUpstream() as well:
            async with opened(kind, f"http://127.0.0.1:{port}", well.url, **QUICK) as upstream:
                assert await failures(upstream, 4) == {"200": 4}
                for _ in range(2):
                    response = await upstream.send(get("ok", b"POST", body=body()))
                    assert (response.status, await read_all(response)) == (200, b"ok")
                assert [seen.body for seen in well.seen] == [b"{}"] * 6

    run(main)


def test_a_cut_call_is_tried_again_only_if_its_method_is_idempotent(kind: str) -> None:
    async def main() -> None:
        with ScriptedUpstream(scripts={"ok": cuts}) as broken, ScriptedUpstream() as well:
            async with opened(kind, broken.url, well.url, ejection={"failures": []}, **QUICK) as upstream:
                for method in (b"GET", b"PUT", b"DELETE"):
                    assert await failures(upstream, 4, method) == {"200": 4}
                for method in (b"POST", b"PATCH"):
                    assert await failures(upstream, 4, method) == {"200": 2, "upstream-unreachable": 2}

    run(main)


def test_a_call_that_may_have_been_executed_says_so_also_if_its_retry_was_refused(kind: str) -> None:
    async def main() -> None:
        with ScriptedUpstream(scripts={"ok": cuts}) as broken, refusing_port() as port:
            async with opened(kind, broken.url, f"http://127.0.0.1:{port}", ejection={"failures": []}) as upstream:
                for _ in range(4):
                    with pytest.raises(UpstreamUnreachable) as caught:
                        await ask(upstream, b"PUT")
                    assert caught.value.possibly_executed

    run(main)


def test_retries_stop_at_the_budget(kind: str) -> None:
    async def main() -> None:
        budget = {"budget_percent": 10, "budget_min_per_second": 0}
        with ScriptedUpstream(scripts={"ok": cuts}) as broken, ScriptedUpstream() as well:
            settings = {"retries": budget, "ejection": {"failures": []}, **QUICK}
            async with opened(kind, broken.url, well.url, **settings) as upstream:
                seen = await failures(upstream, 100, b"GET")
            assert 105 <= len(broken.seen) + len(well.seen) <= 110
            assert seen["200"] == len(well.seen)
            assert seen.total() == 100

    run(main)


def test_a_call_is_tried_at_as_many_targets_as_the_config_says_and_not_later(kind: str) -> None:
    async def main() -> None:
        with contextlib.ExitStack() as stack:
            broken = [stack.enter_context(ScriptedUpstream(scripts={"ok": cuts})) for _ in range(4)]
            hung = [
                stack.enter_context(ScriptedUpstream(scripts={"ok": lambda peer, seen: peer.hang()})) for _ in range(2)
            ]
            urls = [each.url for each in broken]
            async with opened(kind, *urls, retries={"attempts": 3}, **QUICK) as upstream:
                assert await failures(upstream, 1, b"GET") == {"upstream-unreachable": 1}
                assert sorted(len(each.seen) for each in broken) == [0, 1, 1, 1]
            urls = [each.url for each in hung]
            async with opened(kind, *urls, retries={"attempts": 2, "within_seconds": 0.1}, **QUICK) as upstream:
                with pytest.raises(UpstreamTimeout):
                    await ask(upstream, b"GET")
                assert sorted(len(each.seen) for each in hung) == [0, 1]

    run(main)


# Who gets none.


def test_a_target_that_fails_again_and_again_gets_no_calls_until_one_that_tries_goes_well(kind: str) -> None:
    async def main() -> None:
        scripts = dict(FAILS)
        with ScriptedUpstream(scripts=scripts) as ill, ScriptedUpstream() as well:
            async with opened(kind, ill.url, well.url, ejection=BRISK) as upstream:
                assert (await failures(upstream, 10))["500"] == 5
                assert states(upstream) == ["ejected", "up"]
                assert await failures(upstream, 5) == {"200": 5}
                await until(lambda: states(upstream)[0] == "probed")
                assert await failures(upstream, 5) == {"500": 1, "200": 4}
                assert states(upstream) == ["ejected", "up"]
                ill.scripts["ok"] = answers(FINE)
                await until(lambda: states(upstream)[0] == "probed")
                assert await failures(upstream, 20) == {"200": 20}
                assert states(upstream) == ["up", "up"]

    run(main)


def every_other(peer: Peer, seen: Seen) -> bool:
    peer.send(FINE if len(peer.upstream.seen) % 2 else FAILED)
    return True


def test_a_target_that_fails_often_but_never_in_a_row_is_ejected_if_others_do_better(kind: str) -> None:
    async def main() -> None:
        scripts = {"ok": every_other}
        with ScriptedUpstream(scripts=scripts) as ill, ScriptedUpstream() as well:
            async with opened(kind, ill.url, well.url) as upstream:
                assert (await failures(upstream, 80))["500"] <= 12
                assert states(upstream) == ["ejected", "up"]
        with ScriptedUpstream(scripts=scripts) as ill, ScriptedUpstream(scripts=scripts) as other:
            async with opened(kind, ill.url, other.url) as upstream:
                await failures(upstream, 100)
                assert states(upstream) == ["up", "up"], "what all do alike is nobody's fault"

    run(main)


def test_that_many_calls_went_well_before_buys_a_target_no_time() -> None:
    async def main() -> None:
        with ScriptedUpstream() as ill, ScriptedUpstream() as well:
            async with opened("http1", ill.url, well.url) as upstream:
                assert await failures(upstream, 500) == {"200": 500}
                upstream.on_deadline(asyncio.get_running_loop().time() + LOOK_SECONDS)
                ill.scripts["ok"] = every_other
                assert (await failures(upstream, 500))["500"] <= 80
                assert states(upstream) == ["ejected", "up"]

    run(main)


def test_where_every_target_fails_calls_still_go_to_the_one_that_answers(kind: str) -> None:
    async def main() -> None:
        with refusing_port() as port, ScriptedUpstream(scripts=FAILS) as ill:
            async with opened(kind, f"http://127.0.0.1:{port}", ill.url) as upstream:
                assert await failures(upstream, 40) == {"500": 40}
                assert states(upstream)[0] == "ejected"
            async with opened(kind, ill.url) as upstream:
                assert await failures(upstream, 40) == {"500": 40}
                assert states(upstream) == ["up"], "a single one is never ejected for its answers"

    run(main)


def test_with_no_target_left_calls_fail_at_once_but_for_those_that_try(kind: str) -> None:
    async def main() -> None:
        with ScriptedUpstream() as well, blackhole_port() as hole, refusing_port() as port:
            urls = (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{hole}")
            async with opened(kind, *urls, ejection={"consecutive_failures": 2}, **QUICK) as upstream:
                await failures(upstream, 5)
                assert states(upstream) == ["ejected", "ejected"]
                assert await failures(upstream, 20) == {"no-healthy-target": 20}
                with pytest.raises(NoHealthyTarget) as caught:
                    await ask(upstream)
                assert not caught.value.possibly_executed
        async with opened(kind, well.url, **QUICK) as upstream:
            await failures(upstream, 12)  # it has just been closed
            assert states(upstream) == ["ejected"]
            with ScriptedUpstream(port=well.port):
                await until(lambda: states(upstream) == ["probed"], seconds=2)
                assert await failures(upstream, 5) == {"200": 5}
                assert states(upstream) == ["up"]

    run(main)


def test_a_caller_who_leaves_as_his_call_tries_a_target_leaves_that_to_the_next(kind: str) -> None:
    async def main() -> None:
        scripts = {"ok": cuts}
        with ScriptedUpstream(scripts=scripts) as ill, ScriptedUpstream() as well:
            async with opened(kind, ill.url, well.url, ejection=BRISK) as upstream:
                await failures(upstream, 12)
                await until(lambda: states(upstream)[0] == "probed")
                ill.scripts["ok"] = lambda peer, seen: peer.hang()
                seen = len(ill.seen)
                call = asyncio.create_task(ask(upstream))
                await until(lambda: len(ill.seen) > seen)
                assert await failures(upstream, 5) == {"200": 5}, "only one call tries"
                call.cancel()
                await asyncio.wait([call])
                ill.scripts["ok"] = answers(FINE)
                assert await failures(upstream, 5) == {"200": 5}
                assert states(upstream) == ["up", "up"]

    run(main)


# Health checks.


def test_health_checks_take_a_target_out_and_bring_it_back(kind: str) -> None:
    async def main() -> None:
        check = {"path": "/ok", "interval_seconds": 0.1, "timeout_seconds": 0.1, "unhealthy_after": 2}
        with ScriptedUpstream() as one, ScriptedUpstream() as two:
            async with opened(kind, one.url, two.url, health_check=check, ejection=BRISK) as upstream:
                await until(lambda: len(one.seen) > 2 and len(two.seen) > 2)
                assert states(upstream) == ["up", "up"]
                one.scripts["ok"] = lambda peer, seen: peer.hang()
                two.scripts["ok"] = answers(FAILED)
                await until(lambda: states(upstream) == ["down", "down"])
                assert await failures(upstream, 5) == {"no-healthy-target": 5}
                one.scripts["ok"] = two.scripts["ok"] = answers(FINE)
                await until(lambda: states(upstream) == ["up", "up"])
                assert await failures(upstream, 6) == {"200": 6}
            await until(lambda: not one.open_connections and not two.open_connections)

    run(main)
