"""The canary: its word is about now, shared by a crowd, and never given for a look that did not end."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gateway.credits.unkey import canary as module
from gateway.credits.unkey.canary import Canary
from gateway.credits.unkey.errors import UnkeyUnavailable
from gateway.credits.unkey.verdict import Verdict
from tests.credits.conftest import until


class Client:
    """Answers a verify when it is told to, with the code it has by then; None is no answer."""

    def __init__(self, code: str | None = "VALID") -> None:
        self.code = code
        self.asked = 0
        self.looked = 0
        self.is_up = True
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def verify(self, *_: Any) -> Verdict:
        self.asked += 1
        await self.may_answer.wait()
        if self.code is None:
            raise UnkeyUnavailable(cause="down")
        return Verdict(self.code, "key_canary")

    async def is_live(self) -> bool:
        self.looked += 1
        return self.is_up


def test_a_crowd_of_unknown_keys_shares_the_looks(run):
    async def main():
        client = Client()
        canary = Canary(client, b"gw_canary")
        client.may_answer.clear()
        crowd = [asyncio.create_task(canary.is_alive()) for _ in range(500)]
        await until(lambda: client.asked == 1)
        client.may_answer.set()
        assert await asyncio.gather(*crowd) == [True] * 500
        assert client.asked == 2, "the look that was under way, and one that began after all of them had asked"

    run(main())


def test_what_was_true_a_moment_ago_is_not_believed(run):
    async def main():
        client = Client()
        canary = Canary(client, b"gw_canary")
        assert await canary.is_alive()
        client.code = "NOT_FOUND"
        assert not await canary.is_alive()

    run(main())


def test_without_an_answer_nobody_is_told_that_his_key_is_wrong(run, monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)

    async def main():
        client = Client()
        canary = Canary(client, b"gw_canary")
        assert await canary.is_alive()
        client.may_answer.clear()
        assert await asyncio.gather(canary.is_alive(), canary.is_alive()) == [False, False]
        client.may_answer.set()
        client.code = None
        assert not await canary.is_alive()

    run(main())


def test_a_look_whose_caller_left_tells_the_next_one_nothing(run):
    async def main():
        client = Client()
        canary = Canary(client, b"gw_canary")
        assert await canary.is_alive()
        client.may_answer.clear()
        leaving = asyncio.create_task(canary.is_alive())
        await until(lambda: client.asked == 2)
        waiting = asyncio.create_task(canary.is_alive())
        await asyncio.sleep(0)
        leaving.cancel()
        client.code = "NOT_FOUND"
        client.may_answer.set()
        assert not await waiting

    run(main())


def test_without_a_canary_key_every_word_of_unkey_is_believed(run):
    async def main():
        client = Client("NOT_FOUND")
        health = []
        canary = Canary(client, None, lambda ok, _reason: health.append(ok))
        assert await canary.is_alive()
        assert client.asked == 0
        await canary.open()
        await canary.aclose()
        assert health == [True], "it answers, and that is all that can be told"

    run(main())


def test_it_looks_again_soon_until_unkey_is_well(run, monkeypatch):
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.02)

    async def main():
        client = Client(None)
        health = []
        canary = Canary(client, b"gw_canary", lambda ok, _reason: health.append(ok))
        await canary.open()
        assert health[-1] is False, "red from the start"
        client.code = "NOT_FOUND"
        await until(lambda: client.asked >= 3)
        assert health[-1] is False
        client.code = "VALID"
        await until(lambda: health[-1])
        asked, since = client.asked, time.monotonic()
        while time.monotonic() < since + 0.1:
            await asyncio.sleep(0.01)
        assert client.asked == asked, "a verification that is well is not repeated for long"
        await canary.aclose()

    run(main())


def test_an_outage_is_found_out_without_a_call_and_costs_no_verification_before(run, monkeypatch):
    monkeypatch.setattr(module, "LIVENESS_SECONDS", 0.01)
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr("gateway.credits.unkey.breaker.FAILURES_MAX", 2)

    async def main():
        client = Client()
        health = []
        canary = Canary(client, b"gw_canary", lambda ok, _reason: health.append(ok))
        await canary.open()
        await until(lambda: client.looked >= 5)
        assert client.asked == 1, "the one at the start"
        client.is_up, client.code = False, None
        await until(lambda: health[-1] is False)
        client.is_up, client.code = True, "VALID"
        await until(lambda: health[-1])
        await canary.aclose()

    run(main())


def test_who_is_not_live_but_gives_verdicts_is_well(run, monkeypatch):
    monkeypatch.setattr(module, "LIVENESS_SECONDS", 0.01)

    async def main():
        client = Client()
        client.is_up = False
        health = []
        canary = Canary(client, b"gw_canary", lambda ok, _reason: health.append(ok))
        await canary.open()
        await until(lambda: client.asked >= 5)
        assert set(health) == {True}
        await canary.aclose()

    run(main())
