"""What was replaced is closed when nobody uses it any more, and not before."""

from __future__ import annotations

import asyncio

from gateway.deadlines import Deadlines
from gateway.retirement import LOOK_SECONDS, Retirement


class User:
    pass


def test_it_is_closed_after_its_last_user_and_only_once():
    async def run():
        retirement = Retirement(Deadlines(asyncio.get_running_loop()))
        closed = []

        async def close():
            closed.append("closed")

        first, second = User(), User()
        retirement.retire([first, second], close)
        retirement.on_deadline(0)
        del first
        retirement.on_deadline(LOOK_SECONDS)
        await asyncio.sleep(0)
        assert closed == []
        del second
        retirement.on_deadline(2 * LOOK_SECONDS)
        retirement.on_deadline(3 * LOOK_SECONDS)
        await retirement.aclose()
        assert closed == ["closed"]
        assert retirement.waiting_count == 0

    asyncio.run(run())


def test_at_the_end_all_is_closed_even_if_one_fails():
    async def run():
        retirement = Retirement(Deadlines(asyncio.get_running_loop()))
        closed, user = [], User()

        async def fail():
            raise OSError

        async def close():
            closed.append("closed")

        retirement.retire([user], fail)
        retirement.retire([user], close)
        await retirement.aclose()
        assert closed == ["closed"]

    asyncio.run(run())
