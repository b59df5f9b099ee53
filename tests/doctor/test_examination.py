"""Examinations run side by side, within one bound, and tell who is waited for."""

from __future__ import annotations

import asyncio
import time

from gateway.config.load import parse_config
from gateway.doctor.checkup import examinations_of
from gateway.doctor.diagnosis import ok
from gateway.doctor.examination import Examination, examine


def test_one_that_hangs_holds_up_nobody_and_is_told_with_what_it_found():
    async def hangs():
        yield ok("a", "seen")
        await asyncio.sleep(60)
        yield ok("a: more", "never seen")

    async def quick():
        yield ok("b", "seen")

    started = time.monotonic()
    found = asyncio.run(examine([Examination("a", hangs), Examination("b", quick)], lambda _: None, 0.2))
    assert time.monotonic() - started < 5
    assert [(diagnosis.state, diagnosis.what) for diagnosis in found] == [("ok", "a"), ("FAIL", "a"), ("ok", "b")]
    assert "0.2 s" in found[1].text


def test_they_wait_for_each_other_not_one_after_the_other():
    async def main():
        first, second = asyncio.Event(), asyncio.Event()

        async def gives():
            first.set()
            await second.wait()
            yield ok("gives", "")

        async def takes():
            await first.wait()
            second.set()
            yield ok("takes", "")

        return await examine([Examination("gives", gives), Examination("takes", takes)], lambda _: None, 10)

    assert [diagnosis.state for diagnosis in asyncio.run(main())] == ["ok", "ok"]


def test_whoever_waits_is_told_for_whom():
    seen = []

    async def main():
        late = asyncio.Event()

        async def first():
            yield ok("first", "")
            late.set()

        async def second():
            await late.wait()
            await asyncio.sleep(0.05)
            yield ok("second", "")

        await examine([Examination("first", first), Examination("second", second)], seen.append)

    asyncio.run(main())
    assert seen == [("first", "second"), ("second",), ()]


def test_a_config_is_examined_as_far_as_it_goes():
    config = parse_config(b"upstreams: {a: {targets: ['http://127.0.0.1:9']}, b: {targets: ['https://b.test']}}", {})
    assert [one.name for one in examinations_of(config)] == ["database", "credits", "upstream a", "upstream b"]
    billing = b"""
credits: {provider: unkey, unkey: {api_id: api_1, root_key: unkey_1}}
billing: {success_url: 'https://a', cancel_url: 'https://a', stripe: {secret_key: sk_test_s, webhook_secret: w}}
"""
    assert [one.name for one in examinations_of(parse_config(billing, {}))] == ["database", "unkey", "stripe"]
