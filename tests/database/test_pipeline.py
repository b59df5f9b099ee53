"""What a pipeline promises to the journal: all of it, in order, or the first error; and no wait without an end."""

from __future__ import annotations

import os
import signal
import threading

import psycopg
import pytest
from psycopg import errors

from gateway.database.pipeline import Pipeline
from gateway.database.postgres import PostgresConnection, connect, read_parameters


@pytest.fixture
def connection(postgres):
    opened = connect(read_parameters(postgres.create()), lock_timeout_ms=500)
    opened.execute("CREATE TEMP TABLE notes (id bigint PRIMARY KEY, text text, bytes bytea)")
    yield opened
    opened.close()


@pytest.fixture
def pipeline(connection) -> Pipeline:
    return Pipeline(connection)


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


def test_a_run_that_is_broken_off_leaves_no_results_for_the_next(connection, pipeline, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    pipeline.add("SELECT 1")
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_wait", stop)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run()
    pipeline.add("SELECT 2")
    with pytest.raises(psycopg.OperationalError):
        pipeline.run()
