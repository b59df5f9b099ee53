"""Targets that are killed, hang and fail at the same time, and come back: few calls fail, none of those is charged."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from dataclasses import dataclass

from tests.e2e.audit import Books, audit
from tests.e2e.caller import Answer, Caller, request
from tests.e2e.harness import TORTURE, count, gateway, settings
from tests.e2e.target import Target

TARGETS = 5
CALLERS = 16
PAUSE_SECONDS = count(6, 3) / 100
BAD_SECONDS = count(7, 60)
RETURN_SECONDS = 10
ADAPTATION_SECONDS = 2
SOON_SECONDS = 8
"""Few fail from then on, not only in the long run."""
FAILED_MAX = 0.01
ATTEMPTS_MAX = 1.2
ROUNDS = count(1, 3)
UPSTREAM = {
    "response_timeout_seconds": 1,
    "ejection": {"max_seconds": 4, "slow_start_seconds": 3},
}
"""What takes a hanging target out is its time-outs: one second instead of thirty. The rest shortens the way back."""


@dataclass
class Called:
    """`at`: when it began, of time.monotonic()."""

    at: float
    method: str
    answer: Answer

    @property
    def target(self) -> int:
        return int(self.answer.headers.get("x-target", 0))


async def keep_calling(port, key, called, stop, seed):
    chance = random.Random(seed)
    caller = await Caller.open(port)
    while not stop.is_set():
        if not caller.usable:
            await caller.close()
            caller = await Caller.open(port)
        method = chance.choice(("GET", "POST", "POST"))
        at = time.monotonic()
        called.append(Called(at, method, await caller.call(request(key, method=method))))
        await asyncio.sleep(PAUSE_SECONDS * 2 * chance.random())
    await caller.close()


async def break_and_mend(targets, marks):
    """Three targets go bad at once, each in its way, and come back at once."""
    killed, hung, failing = targets[:3]
    await asyncio.sleep(2)
    for _ in range(ROUNDS):
        killed.kill()
        hung.hang()
        failing.fail_half(True)
        marks.append(time.monotonic())
        await asyncio.sleep(BAD_SECONDS)
        await asyncio.to_thread(killed.start)
        hung.go_on()
        failing.fail_half(False)
        marks.append(time.monotonic())
        await asyncio.sleep(RETURN_SECONDS + 3)


def free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [sock.getsockname()[1] for sock in sockets]


def test_targets_that_die_hang_and_fail_cost_few_calls_and_no_credits(tmp_path):
    async def main(running, key, targets):
        called: list[Called] = []
        marks: list[float] = []
        stop = asyncio.Event()
        callers = [asyncio.create_task(keep_calling(running.port, key, called, stop, seed)) for seed in range(CALLERS)]
        await break_and_mend(targets, marks)
        stop.set()
        await asyncio.gather(*callers)
        return called, marks

    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(Target(tmp_path, port)) for port in free_ports(TARGETS)]
        config = settings(tmp_path, targets[0].url, upstream={"targets": [each.url for each in targets], **UPSTREAM})
        config["routes"][0]["methods"] = ["GET", "POST"]
        running = stack.enter_context(gateway(tmp_path, config))
        key, _ = running.create_key(10_000_000)
        running.start()
        called, marks = asyncio.run(main(running, key, targets))
        retries = running.metric("gateway_upstream_retries_total")
        assert running.stop() == 0
        for bad_at, mended_at in zip(marks[::2], marks[1::2], strict=True):
            few_calls_failed(called, bad_at, mended_at)
            every_target_has_its_share(called, targets, mended_at)
        attempts = max(sum(each.arrived for each in targets), len(called) + retries)
        print(f"{len(called)} calls, {attempts / len(called):.3f} attempts each, {retries:.0f} retries")
        assert attempts <= ATTEMPTS_MAX * len(called)
        no_failed_call_was_charged(audit(running.database), called)


def few_calls_failed(called, bad_at, mended_at):
    after = [each for each in called if bad_at + ADAPTATION_SECONDS <= each.at < mended_at + RETURN_SECONDS]
    failed = Counter((each.method, each.answer.status) for each in after if each.answer.status != 200)
    during = Counter(each.answer.status for each in called if bad_at <= each.at < bad_at + ADAPTATION_SECONDS)
    soon = [each.answer.status for each in after if each.at < bad_at + ADAPTATION_SECONDS + SOON_SECONDS]
    failed_soon = len(soon) - soon.count(200)
    print(
        f"adapting: {dict(during)}; soon after: {len(soon)} calls, {failed_soon} failed;"
        f" in all: {len(after)} calls, failed {dict(failed)}, {failed.total() / len(after):.2%}"
    )
    assert len(after) > 100
    assert failed.total() <= FAILED_MAX * len(after)
    if TORTURE:
        assert failed_soon <= FAILED_MAX * len(soon)


def every_target_has_its_share(called, targets, mended_at):
    """In the second or so after the time allowed, each has half of an equal share at least."""
    since = mended_at + RETURN_SECONDS
    shares = Counter(each.target for each in called if since <= each.at < since + 3)
    print(f"shares after {RETURN_SECONDS} s: {[shares[each.port] for each in targets]}")
    assert min(shares[each.port] for each in targets) >= 0.5 * shares.total() / TARGETS


def no_failed_call_was_charged(books: Books, called):
    answered = {each.answer.request_id for each in called if each.answer.status == 200}
    assert set(books.charged) == answered
