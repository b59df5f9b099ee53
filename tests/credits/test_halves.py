"""Where commits wait for a server, half of a crowd is served while the other half's commit is under way."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from gateway.credits.crowd import CROWD_MIN, Crowd
from gateway.credits.journal import RETRY_SECONDS, Journal
from gateway.credits.pending import suspect
from gateway.credits.provider import NO_POLICY
from gateway.database.failure import DatabaseFailure, Kind
from gateway.deadlines import Deadlines
from tests.credits.conftest import until

pytestmark = pytest.mark.pure


class Server:
    """Commits that come back when a test says so; the journal in front of them."""

    def __init__(self):
        self.begun: list[int] = []
        self.answer: asyncio.Future[None] | None = None
        loop = asyncio.get_running_loop()
        self.journal = Journal(lambda: self, loop, Deadlines(loop), timeout_seconds=60, is_remote=True)
        self.journal.open()

    def wait_for_lock(self, milliseconds):
        pass

    async def commit(self, takes, ends):
        self.begun.append(len(takes) + len(ends))
        self.answer = asyncio.get_running_loop().create_future()
        await self.answer

    def close(self):
        pass

    def come(self, count):
        return [self.journal.take(bytes(32), 1, "/x", "r", NO_POLICY) for _ in range(count)]

    def come_back(self, failure=None):
        """The commit under way, and nobody's turn between that and what the journal does then."""
        if failure is None:
            self.answer.set_result(None)
        else:
            self.answer.set_exception(failure)
        self.journal.go_on()

    async def crowd(self, size):
        """One of so many, all in one commit, which is under way."""
        self.come(1)
        self.come(size)
        self.come_back()
        await until(lambda: self.begun == [1, size])


@contextlib.asynccontextmanager
async def server():
    server = Server()
    yield server
    while server.journal.pending:
        if server.answer is not None and not server.answer.done():
            server.come_back()
        await asyncio.sleep(0)
    await server.journal.aclose()


def test_half_of_a_crowd_does_not_wait_for_the_other(run):
    async def main():
        async with server() as it:
            await it.crowd(32)
            it.come_back()
            it.come(15)
            assert it.begun == [1, 32]
            it.come(1)
            assert it.begun == [1, 32, 16]
            it.come(16)

    run(main())


def test_the_other_half_is_on_its_way_before_the_first_is_told(run):
    async def main():
        async with server() as it:
            await it.crowd(32)
            it.come_back()
            it.come(16)
            it.come(16)
            seen = []
            it.journal._on_commit = lambda *_: seen.append(list(it.begun))
            it.come_back()
            assert seen == [[1, 32, 16, 16]]

    run(main())


def test_who_is_fewer_than_half_waits_for_who_comes_in_these_turns(run):
    async def main():
        async with server() as it:
            await it.crowd(32)
            it.come(15)
            it.come_back()  # 47 took part
            assert it.begun == [1, 32]
            await asyncio.sleep(0)
            it.come(3)
            await until(lambda: it.begun == [1, 32, 18])

    run(main())


def test_few_are_no_crowd(run):
    async def main():
        async with server() as it:
            await it.crowd(CROWD_MIN - 1)
            it.come_back()
            it.come(CROWD_MIN - 2)
            assert it.begun == [1, CROWD_MIN - 1]

    run(main())


def test_after_a_commit_that_failed_a_crowd_waits_for_the_pause_as_everybody_does(run):
    async def main():
        async with server() as it:
            loop = asyncio.get_running_loop()
            await it.crowd(32)
            for refused in it.journal._committing.takes:
                refused.future.add_done_callback(asyncio.Future.exception)
            it.come_back(DatabaseFailure(Kind.away, "gone"))
            began = loop.time()
            it.come(64)
            assert it.begun == [1, 32]
            await until(lambda: it.begun == [1, 32, 64])
            assert loop.time() - began >= RETRY_SECONDS * 0.9

    run(main())


def test_what_is_tried_again_is_sure_once_more(run):
    async def main():
        async with server() as it:
            batch = suspect()
            batch.is_unsure = True
            it.journal._failed(batch, DatabaseFailure(Kind.stale, "changed"), Kind.stale)
            assert it.journal._suspects.pop() is batch
            assert not batch.is_unsure

    run(main())


@pytest.mark.parametrize("is_remote", [True, False])
def test_where_commits_wait_for_nobody_there_are_no_halves(is_remote):
    crowd = Crowd(is_remote=is_remote)
    crowd.on_commit(16, 16)
    assert crowd.is_half(16) == is_remote
    assert not crowd.is_half(15)
