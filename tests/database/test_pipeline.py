"""What a pipeline promises to the journal: all of it, in order, or the first error; and no wait without an end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import psycopg
import pytest
import uvloop
from psycopg import errors

from gateway.database.pipeline import Pipeline
from gateway.database.postgres import PostgresConnection, connect, read_parameters


@pytest.fixture
def connection(postgres):
    opened = connect(read_parameters(postgres.create()), lock_timeout_ms=500)
    opened.execute("CREATE TEMP TABLE notes (id bigint PRIMARY KEY, text text, bytes bytea)")
    yield opened
    opened.close()


class Driven:
    """A pipeline with an event loop of its own, which runs while there is something to wait for."""

    def __init__(self, connection, loop) -> None:
        self.loop = loop
        self.pipeline = Pipeline(connection, loop)
        self.add, self.forget = self.pipeline.add, self.pipeline.forget

    def run(self):
        return self.loop.run_until_complete(self.pipeline.run())

    def serve(self, seconds):
        self.loop.run_until_complete(asyncio.sleep(seconds))


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def pipeline(connection, request):
    loop = request.param()
    driven = Driven(connection, loop)
    yield driven
    driven.pipeline.close()
    loop.close()


def test_who_waits_is_told_in_the_moment_in_which_the_last_answer_is_there(connection):
    loop = uvloop.new_event_loop()
    seen = []

    async def main():
        pipeline = Pipeline(connection, loop, lambda: seen.append((running.done(), pipeline.is_idle)))
        for _ in range(2):
            pipeline.add("SELECT 1")
            pipeline.add("SELECT 2")
            running = loop.create_task(pipeline.run())
            assert await running == [[(1,)], [(2,)]]
        pipeline.close()

    loop.run_until_complete(main())
    loop.close()
    assert seen == [(False, True), (False, True)]


def test_each_statement_finds_its_rows_in_its_place_however_often_it_is_run(pipeline):
    for number in range(3):
        insert = pipeline.add("INSERT INTO notes VALUES ($1, $2, $3::bytea)", str(number), "ünï", "\\x00ff")
        select = pipeline.add("SELECT id, text, bytes FROM notes WHERE id = $1", str(number))
        same = pipeline.add("SELECT id, text, bytes FROM notes WHERE id = $1", str(number - 1))
        nothing = pipeline.add("SELECT id FROM notes WHERE id < 0")
        rows = pipeline.run()
        assert rows[insert] == rows[nothing] == []
        assert rows[select] == [(number, "ünï", b"\x00\xff")]
        assert rows[same] == ([(number - 1, "ünï", b"\x00\xff")] if number else [])


def test_the_first_that_fails_is_raised_and_what_is_behind_it_is_not_run(connection, pipeline):
    pipeline.add("BEGIN")
    pipeline.add("INSERT INTO notes (id) VALUES ($1)", "1")
    pipeline.add("INSERT INTO notes (id) VALUES ($1)", "1")
    pipeline.add("INSERT INTO notes (id) SELECT 1 / ($1::bigint)", "0")
    pipeline.add("COMMIT")
    with pytest.raises(errors.UniqueViolation):
        pipeline.run()
    connection.execute("ROLLBACK")
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_after_a_failure_the_same_statements_can_be_run_again(connection, pipeline):
    insert = "INSERT INTO more (id) VALUES ($1)"
    select = "SELECT count(*) FROM notes WHERE id > $1"
    pipeline.add(select, "0")
    pipeline.add(insert, "1")
    with pytest.raises(errors.UndefinedTable):
        pipeline.run()
    connection.execute("CREATE TEMP TABLE more (id bigint PRIMARY KEY)")
    for number in ("1", "2", "two"):
        pipeline.add(insert, number)
        pipeline.add(select, "0")
        if number == "two":
            with pytest.raises(errors.InvalidTextRepresentation):
                pipeline.run()
        else:
            assert pipeline.run() == [[], [(0,)]]
    pipeline.add(insert, "3")
    assert pipeline.run() == [[]]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_text_that_postgresql_can_not_have_is_refused_and_not_cut_short(connection, pipeline, text):
    with pytest.raises((psycopg.DataError, UnicodeEncodeError)):
        pipeline.add("INSERT INTO notes (id, text) VALUES ($1, $2)", "1", text)
    assert pipeline.add("SELECT 1") == 0
    assert pipeline.run() == [[(1,)]]


def test_more_than_either_side_can_hold_goes_through(pipeline):
    large = "x" * 3_000_000
    for _ in range(8):
        pipeline.add("SELECT $1::text", large)
    assert pipeline.run() == [[(large,)]] * 8
    for _ in range(8):
        pipeline.add("SELECT length($1::text)", large)
    assert pipeline.run() == [[(len(large),)]] * 8


def test_what_was_added_and_forgotten_is_not_run(connection, pipeline):
    pipeline.add("INSERT INTO notes (id) VALUES (1)")
    pipeline.forget()
    assert pipeline.run() == []
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_a_server_that_does_not_answer_is_given_up(connection: PostgresConnection, pipeline):
    connection.answer_seconds = 0.1
    pipeline.add("SELECT pg_sleep(30)")
    with pytest.raises(psycopg.OperationalError, match=r"no answer from the server within 0.1 s"):
        pipeline.run()
    assert connection.closed


def test_a_server_that_does_not_even_read_is_given_up(connection: PostgresConnection, pipeline):
    connection.answer_seconds = 0.1
    process = connection.info.backend_pid
    os.kill(process, signal.SIGSTOP)
    try:
        for _ in range(8):
            pipeline.add("SELECT length($1::text)", "x" * 3_000_000)
        with pytest.raises(psycopg.OperationalError, match="no answer"):
            pipeline.run()
    finally:
        os.kill(process, signal.SIGCONT)
    assert connection.closed


def test_a_connection_that_was_ended_meanwhile_is_told(postgres, connection, pipeline):
    process = connection.info.backend_pid
    with connect(read_parameters(postgres.create()), lock_timeout_ms=500) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (process,))
    for _ in range(8):
        pipeline.add("SELECT length($1::text)", "x" * 3_000_000)
    with pytest.raises(psycopg.OperationalError):
        pipeline.run()
    assert connection.closed


def test_a_connection_that_is_ended_by_the_server_is_told_and_not_waited_for(postgres, connection, pipeline):
    pipeline.add("SELECT pg_backend_pid()")
    ((process,),) = pipeline.run()[0]
    pipeline.add("SELECT pg_sleep(30)")
    pipeline.add("SELECT 1")
    with connect(read_parameters(postgres.create()), lock_timeout_ms=500) as other:
        killer = threading.Timer(0.2, other.execute, ["SELECT pg_terminate_backend(%s)", (process,)])
        killer.start()
        with pytest.raises(psycopg.OperationalError):
            pipeline.run()
        killer.join()
    assert connection.closed
    with pytest.raises(psycopg.OperationalError):
        pipeline.run()


@pytest.mark.parametrize("is_late", [False, True], ids=["before-its-answer", "with-its-answer"])
def test_a_run_that_is_broken_off_leaves_no_results_for_the_next(pipeline, is_late):
    async def main():
        running = asyncio.ensure_future(pipeline.pipeline.run())
        await asyncio.sleep(0)
        while is_late and not pipeline.pipeline._answer.done():
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    pipeline.add("SELECT 1")
    pipeline.loop.run_until_complete(main())
    assert not pipeline.pipeline.is_idle
    pipeline.add("SELECT 2")
    with pytest.raises(psycopg.OperationalError):
        pipeline.run()


def test_an_answer_that_came_in_time_counts_however_late_the_loop_comes_to_it(connection, pipeline):
    connection.answer_seconds = 0.2

    async def main():
        pipeline.add("SELECT 1")
        running = asyncio.ensure_future(pipeline.pipeline.run())
        await asyncio.sleep(0)
        time.sleep(0.5)
        assert await running == [[(1,)]]

    pipeline.loop.run_until_complete(main())


def test_while_the_server_is_at_it_the_loop_serves_others(pipeline):
    turns = 0

    async def serve():
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    async def main():
        others = asyncio.ensure_future(serve())
        pipeline.add("SELECT pg_sleep(0.3)")
        await pipeline.pipeline.run()
        others.cancel()

    pipeline.loop.run_until_complete(main())
    assert turns > 20


def test_while_the_server_does_not_read_the_loop_serves_others_and_then_all_is_sent(connection, pipeline):
    process = connection.info.backend_pid
    large = "x" * 3_000_000
    connection.answer_seconds = 60

    async def main():
        for _ in range(8):
            pipeline.add("SELECT length($1::text)", large)
        running = asyncio.ensure_future(pipeline.pipeline.run())
        await asyncio.sleep(0.2)
        assert not running.done()
        os.kill(process, signal.SIGCONT)
        async with asyncio.timeout(30):
            assert await running == [[(len(large),)]] * 8

    os.kill(process, signal.SIGSTOP)
    try:
        pipeline.loop.run_until_complete(main())
    finally:
        os.kill(process, signal.SIGCONT)
    pipeline.add("SELECT 1")
    assert pipeline.run() == [[(1,)]]
    assert not pipeline.loop.remove_writer(pipeline.pipeline._socket), "it is called for ever"


def test_a_connection_that_breaks_while_nobody_uses_it_is_let_go_of(postgres, connection, pipeline):
    """Before its socket is closed: the loop would go on watching whatever gets that number."""
    assert pipeline.pipeline.is_idle
    with connect(read_parameters(postgres.create()), lock_timeout_ms=500) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
    socket = connection.fileno()
    pipeline.serve(0.1)
    assert not pipeline.pipeline.is_idle
    assert connection.closed
    assert not pipeline.loop.remove_reader(socket)


def test_a_number_of_a_socket_can_be_used_again_at_once(postgres, connection, pipeline):
    socket = connection.fileno()
    pipeline.add("SELECT 1")
    pipeline.run()
    pipeline.pipeline.close()
    with connect(read_parameters(postgres.create()), lock_timeout_ms=500) as other:
        assert other.fileno() == socket
        second = Driven(other, pipeline.loop)
        second.add("SELECT 2")
        assert second.run() == [[(2,)]]
        pipeline.pipeline.close()  # the first again
        second.add("SELECT 3")
        assert second.run() == [[(3,)]]
        second.pipeline.close()
