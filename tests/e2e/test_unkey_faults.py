"""I9 with Unkey: whatever is wrong with it, calls are refused with 503 in time, nothing is forwarded, nothing is asked
twice, and all is well again by itself. What may have been taken is in doubt, to the credit, and never served.

The gateway is a process; its key and credits are at a stand-in that keeps books of what it was asked and did.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from gateway.sandbox.unkey.permissions import RootKey
from tests.e2e.caller import Answer, Caller, call, request
from tests.e2e.harness import TORTURE, Gateway, count, gateway, settings, until_async
from tests.e2e.unkey import Unkey
from tests.e2e.upstream import Upstream

CALLS = count(3, 40)
"""At once while it fails. Each has a key of its own, so that no verify hides behind another."""
CREDITS = 100_000
COST = 3
ANSWERED_SECONDS = 2.0
LOADED_SECONDS = 1.9
"""By how much the machine that runs this may be late."""
RECOVERY_SECONDS = 5.0 + LOADED_SECONDS
HEALTH_SECONDS = 0.05
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n"
READY = b"GET /readyz HTTP/1.1\r\nHost: g\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
VALID = b'{"meta":{"requestId":"r"},"data":{"valid":true,"code":"VALID","keyId":"key_forged","credits":9}}'


@dataclass(frozen=True)
class Fault:
    """`doubts`: whether Unkey may have done what it was asked, as far as the gateway can know. None: either."""

    name: str
    break_it: Callable[[Unkey], None]
    doubts: bool | None


def failing(name: str, kind: str, doubts: bool, **switches: object) -> Fault:
    return Fault(name, lambda unkey: unkey.fail(kind, **switches), doubts)


def answering(name: str, canned: bytes, *, ends: bool = True) -> Fault:
    return Fault(name, lambda unkey: unkey.answer(canned, ends=ends), doubts=True)


LATE = [
    failing("slow", "slow", True, seconds=5),
    failing("slow-but-done", "slow", True, seconds=5, takes_effect=True),
    failing("silent", "silent", True),
    failing("silent-but-done", "silent", True, takes_effect=True),
    failing("byte-by-byte", "malformed", True, how="drip", seconds=0.05),
    failing("announces-more", "malformed", True, how="long_length"),
    answering("head-without-end", b"HTTP/1.1 200 OK\r\nX-Filler: ", ends=False),
    answering("body-without-end", JSON + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{    \r\n", ends=False),
]
SPOILT = [
    *("not_json", "html", "empty", "truncated", "short_length", "bad_head", "huge"),
    *("wrong_types", "missing_data", "null_data", "not_an_object", "nothing", "contradiction"),
]
BROKEN = [
    failing("reset", "reset", True),
    failing("reset-but-done", "reset", True, takes_effect=True),
    failing("closed", "closed", True),
    failing("closed-but-done", "closed", True, takes_effect=True),
    *(failing(f"error-{status}", "error", True, status=status) for status in (408, 499, 500, 502, 503, 504, 520, 599)),
    failing("error-500-but-done", "error", True, takes_effect=True),
    *(failing(f"error-{status}", "error", False, status=status) for status in (400, 401, 403, 404, 412, 413, 429)),
    *(failing(f"limited-{seconds}", "limited", False, retry_after_seconds=seconds) for seconds in (0, 1, 30, 3600)),
    *(failing(f"spoilt-{how}", "malformed", True, how=how) for how in SPOILT),
    failing("page-before-it-was-asked", "malformed", True, how="html", takes_effect=False),
    Fault("root-key-unknown", lambda unkey: unkey.put_root_key(None), doubts=False),
    Fault("root-key-disabled", lambda unkey: unkey.put_root_key(RootKey(enabled=False)), doubts=False),
    Fault("root-key-without-permission", lambda unkey: unkey.put_root_key(RootKey(("api.*.create_key",))), False),
    Fault("workspace-limited", lambda unkey: unkey.server.settings.change({"workspace_limit_per_minute": 0}), False),
    Fault("refused", Unkey.refuse, doubts=False),
    Fault("closes-new-connections", Unkey.close_at_once, doubts=None),
    answering("redirect", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"),
    answering("upgrade", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    answering("no-content", b"HTTP/1.1 204 No Content\r\n\r\n"),
    answering("two-lengths", JSON + b"Content-Length: 96\r\nContent-Length: 97\r\n\r\n" + VALID),
    answering("packed", JSON + b"Content-Encoding: gzip\r\nContent-Length: 96\r\n\r\n" + VALID),
    answering("head-too-long", b"HTTP/1.1 200 OK\r\nX-Filler: " + b"x" * 100_000 + b"\r\n\r\n"),
    answering("tls-alert", b"\x15\x03\x03\x00\x02\x02\x46"),
    answering("broken-chunk", JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
]
FAULTS = [*LATE, *BROKEN]
assert len(FAULTS) >= 40


class House:
    """A gateway between callers, Unkey and an upstream that counts; all of it stays up from fault to fault."""

    def __init__(self, running: Gateway, unkey: Unkey, upstream: Upstream, keys: dict[str, str]) -> None:
        self.running = running
        self.unkey = unkey
        self.upstream = upstream
        self.keys = keys
        """Unkey's ids by secret."""
        self.served_oddly: set[str] = set()
        """Verifications that a fault struck and that were good enough all the same."""
        self.health: list[float] = []
        """How long health and readiness took while Unkey failed, in seconds."""

    async def works(self) -> None:
        """Every key can make a call, within the time in which the gateway must have recovered."""
        began = time.monotonic()
        for secret in self.keys:
            while (answer := await call(self.running.port, request(secret))).status != 200:
                assert answer.status == 503, answer
                assert time.monotonic() - began < RECOVERY_SECONDS, answer
                await asyncio.sleep(0.02)

    async def is_ready(self) -> None:
        """Readiness says that it is well, within the same time."""
        began = time.monotonic()
        while (await call(self.running.port, READY)).status != 200:
            assert time.monotonic() - began < RECOVERY_SECONDS
            await asyncio.sleep(0.02)

    async def call_all(self) -> list[tuple[Answer, float]]:
        """A call with each key, all at once, and how long each took."""

        async def timed(secret: str) -> tuple[Answer, float]:
            began = time.monotonic()
            return await call(self.running.port, request(secret)), time.monotonic() - began

        return list(await asyncio.gather(*(timed(secret) for secret in self.keys)))

    async def watch_health(self, seconds: list[float]) -> None:
        """Ask for the gateway's health and readiness, again and again."""
        async with await Caller.open(self.running.port) as caller:
            while True:
                for asked, statuses in ((HEALTH, {200}), (READY, {200, 503})):
                    began = time.monotonic()
                    assert (await caller.call(asked)).status in statuses
                    seconds.append(time.monotonic() - began)
                await asyncio.sleep(0.005)

    async def settled(self) -> None:
        await until_async(lambda: not self.rows("SELECT 1 FROM unkey_holds"))

    def doubts(self) -> Counter[str]:
        """Credits in doubt by request."""
        return Counter(dict(self.rows("SELECT request_id, amount FROM doubts")))

    def rows(self, query: str, *values: object) -> list[tuple]:
        with closing(sqlite3.connect(f"file:{self.running.database}?mode=ro", uri=True)) as connection:
            return connection.execute(query, values).fetchall()

    def audit(self) -> None:
        """To the credit: what Unkey took is what was spent, what is in the pools, and what it did under a fault."""
        lost = dict.fromkeys(self.keys, 0)
        for one in self.unkey.verifies():
            body = json.loads(one.asked.raw_body)
            took = one.fault and one.carried_out and one.status == 200
            if took and body["key"] in lost and one.asked.request_id not in self.served_oddly:  # not the canary
                lost[body["key"]] += body["credits"]["cost"]
        doubts = self.by_key("SELECT key, sum(amount) FROM doubts GROUP BY 1")
        spent = self.by_key("SELECT key, -sum(amount) FROM entries WHERE kind = 'spend' GROUP BY 1")
        pools = self.by_key("SELECT id, balance FROM keys")
        usable = Counter(seen.get("x-gateway-key-id") for seen in self.upstream.seen)
        for secret, unkey_id in self.keys.items():
            assert spent[unkey_id] == usable[unkey_id] * COST
            assert self.unkey.taken(unkey_id) == spent[unkey_id] + pools[unkey_id] + lost[secret]
            assert lost[secret] <= doubts[unkey_id], "taken, and not in doubt"
        assert self.rows("SELECT 1 FROM keys WHERE held <> 0") == []
        assert not self.doubts().keys() & self.upstream.arrived.keys(), "in doubt, and served"

    def by_key(self, query: str) -> Counter[str]:
        """Numbers by key."""
        numbers = dict(self.rows(query))
        return Counter(
            {unkey_id: numbers.get(number, 0) for number, unkey_id in self.rows("SELECT id, unkey_id FROM keys")}
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("house")
    with Unkey() as unkey, Upstream() as upstream:
        _, canary = unkey.create_key(0)
        made = [unkey.create_key(CREDITS, externalId=f"user-{number}") for number in range(CALLS)]
        config = settings(
            directory,
            upstream.url,
            routes=[{"path": "/call/{what}", "methods": ["POST"], "upstream": "main", "cost": COST}],
            credits={"provider": "unkey", "unkey": unkey.section(canary_key=canary)},
        )
        with gateway(directory, config) as running:
            running.start()
            built = House(running, unkey, upstream, {secret: unkey_id for unkey_id, secret in made})
            asyncio.run(built.works())
            yield built
            unkey.mend()
            asyncio.run(built.works())
            assert running.stop() == 0
            built.audit()
            assert "Traceback" not in running.errors
            told = sorted(seconds * 1000 for seconds in built.health)
            if told:
                shares = [f"p{share} {told[len(told) * share // 100]:.1f}" for share in (50, 95, 99)]
                print(f"health while Unkey failed: {len(told)} asked, {', '.join(shares)}, longest {told[-1]:.1f} ms")


async def _fail(house: House, fault: Fault) -> None:
    await house.works()
    await house.settled()
    doubts, arrived, asked = house.doubts(), len(house.upstream.seen), house.unkey.verified()
    health: list[float] = []
    fault.break_it(house.unkey)
    watching = asyncio.create_task(house.watch_health(health))
    try:
        answered = await house.call_all()
        for _ in range(20 if TORTURE else 0):  # it goes on failing, and the gateway has found out
            answered += await house.call_all()
        heard = house.unkey.verified() - asked
        forwarded = len(house.upstream.seen) - arrived
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        house.unkey.mend()
    await house.works()
    await house.settled()

    assert {answer.status for answer, _ in answered} == {503}
    assert {answer.slug for answer, _ in answered} == {"credits-unavailable"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer, _ in answered)
    assert max(seconds for _, seconds in answered) < ANSWERED_SECONDS + LOADED_SECONDS
    assert forwarded == 0
    _check_doubts(house, fault, answered, house.doubts() - doubts, heard)
    house.health += health
    assert watching.cancelled()
    assert statistics.median(health) < HEALTH_SECONDS
    assert max(health) < HEALTH_SECONDS + LOADED_SECONDS


def _check_doubts(
    house: House,
    fault: Fault,
    answered: list[tuple[Answer, float]],
    doubts: Counter[str],
    heard: Counter[str],
) -> None:
    """Nothing was asked twice; and in doubt is each call that Unkey may have heard of, with all that it was asked."""
    asked = sum(heard[secret] for secret in house.keys)
    if not TORTURE:
        assert all(heard[secret] <= 1 for secret in house.keys), "a call was asked about twice"
    assert asked <= len(answered)
    assert doubts.keys() <= {answer.request_id for answer, _ in answered}
    assert set(doubts.values()) <= {COST}
    if fault.doubts is False:
        assert not doubts
    elif fault.doubts:
        # Where the front answers, Unkey hears of nothing.
        assert asked == len(doubts) or asked == 0 < len(doubts)


@pytest.mark.timeout(count(240, 600))
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_of_unkey_is_503_in_time_without_a_call_forwarded_or_asked_twice_and_over_when_it_is_over(house, fault):
    asyncio.run(_fail(house, fault))


@pytest.mark.parametrize("how", ["new_fields", "extra_bytes"])
def test_what_is_odd_about_an_answer_but_no_fault_is_served(house, how):
    async def main():
        await house.works()
        before = len(house.unkey.verifies())
        house.unkey.fail("malformed", how=how)
        try:
            answered = await house.call_all()
        finally:
            house.unkey.mend()
        house.served_oddly |= {one.asked.request_id for one in house.unkey.verifies()[before:]}
        assert {answer.status for answer, _ in answered} == {200}

    asyncio.run(main())


@pytest.mark.timeout(count(240, 600))
@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS if fault.name in {"refused", "silent", "error-500", "root-key-without-permission"}],
    ids=lambda fault: fault.name,
)
def test_an_outage_that_lasts_costs_nobody_a_wait_and_is_told_by_readiness(house, fault):
    """Once the gateway knows that Unkey is down it does not ask it for each call."""

    async def main():
        await house.is_ready()
        fault.break_it(house.unkey)
        try:
            await go_down()
        finally:
            house.unkey.mend()
        await house.works()
        await house.is_ready()

    async def go_down():
        began = time.monotonic()
        while (ready := await call(house.running.port, READY)).status != 503:
            await house.call_all()
            assert time.monotonic() - began < 30
        assert json.loads(ready.body)["checks"]["unkey"]["ok"] is False
        asked = house.unkey.verified()
        answered = [one for _ in range(5) for one in await house.call_all()]
        assert {answer.status for answer, _ in answered} == {503}
        if fault.name != "root-key-without-permission":  # Unkey answers: only the canary tells that it means nothing
            assert max(seconds for _, seconds in answered) < LOADED_SECONDS
            assert not (house.unkey.verified() - asked).keys() & house.keys.keys()

    asyncio.run(main())


@pytest.mark.parametrize("base_url", ["https://unkey.invalid", "https://127.0.0.1:{port}", "http://127.0.0.1:9"])
def test_an_address_at_which_there_is_no_unkey_is_503_in_time(tmp_path, base_url):
    async def main(running):
        began = time.monotonic()
        answers = await asyncio.gather(*(call(running.port, request(f"gw_{n}")) for n in range(CALLS)))
        assert {(answer.status, answer.slug) for answer in answers} == {(503, "credits-unavailable")}
        assert time.monotonic() - began < ANSWERED_SECONDS + LOADED_SECONDS
        assert (await call(running.port, HEALTH)).status == 200
        assert (await call(running.port, READY)).status == 503

    with Unkey() as unkey, Upstream() as upstream:
        section = unkey.section(base_url=base_url.format(port=unkey.port))
        config = settings(tmp_path, upstream.url, credits={"provider": "unkey", "unkey": section})
        with gateway(tmp_path, config) as running:
            running.start()
            asyncio.run(main(running))
            assert running.stop() == 0
        assert upstream.seen == []
