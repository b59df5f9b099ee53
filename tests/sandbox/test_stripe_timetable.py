"""The stand-in's own clock and what is due by it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.sandbox.clock import Clock
from gateway.sandbox.stripe.timetable import Timetable


@pytest.mark.parametrize("turns", range(6))
def test_a_timetable_that_is_cancelled_as_something_new_is_due_stops_all_the_same(turns):
    """It went on once in a while, and whoever closed the stand-in waited for ever."""

    async def story():
        timetable = Timetable(Clock(lambda: 1.0))
        running = asyncio.create_task(timetable.run())
        await asyncio.sleep(0.01)
        timetable.after(60, lambda: None)
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        _, late = await asyncio.wait([running], timeout=5)
        running.cancel()
        assert not late

    asyncio.run(story())
