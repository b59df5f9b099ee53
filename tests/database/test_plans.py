"""The ledger grows for ever: whatever is asked of it while calls are served is found by index, never by reading it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import sqlite3
from hashlib import sha256

import pytest
from sqlalchemy import event

from gateway.billing import inbox, outbox
from gateway.billing.low_balances import LowBalances, _read_moved
from gateway.billing.outbox import Outbox
from gateway.credits import answers, capping, ledger, sales
from gateway.credits.batch import HOLDS, End, Take, Transaction
from gateway.credits.claims import Claim
from gateway.credits.committer import finish
from gateway.credits.periods import month_of
from gateway.credits.store_sqlite import SqliteStore
from gateway.credits.unkey import adoption
from gateway.database.engine import open_database
from gateway.database.insert import read_fence
from gateway.database.sqlite import SqliteDatabase
from gateway.database.tables import HOLDS_PER_INSTANCE, holds, keys
from tests.database.moving.books import DEAD_INSTANCE, export_to, fill, import_from

KEY = f"key_{3:020x}"
READS = re.compile(r"Seq Scan on (entries|stripe_events|notifications|orders|answers|spend_caps)\b")
GROWS = re.compile(r"\bSCAN (entries|stripe_events|notifications|orders|answers|spend_caps)\b")


def history_of_nothing(connection):
    key_id = f"key_{os.urandom(10).hex()}"
    row = {"key_id": key_id, "key_hash": os.urandom(32), "start": "", "user_id": "", "held": 0, "enabled": 1}
    connection.execute(keys.insert().values(**row, created_at=0))
    return ledger.history(connection, key_id, None, 50)


def _tally():
    return capping.Tally(month_of(ledger.now_ms()))


LOW = LowBalances(None, Outbox(is_on=False), [5], "me", every_seconds=1)
QUESTIONS = {
    "balance": lambda db: ledger.find_balance(db, KEY),
    "first page of history": lambda db: ledger.history(db, KEY, None, 50),
    "next page of history": lambda db: ledger.history(db, KEY, ledger.history(db, KEY, None, 5)[-1].id, 50),
    "history behind somebody else's entry": lambda db: ledger.history(db, KEY, 4, 50),
    "history of a key without entries": history_of_nothing,
    "a page of history, for a spend cap": lambda db: capping._read_page(db, 40, 50),
    "spend cap": lambda db: capping._change(db, 3, {"day": 5}, _tally(), ledger.read_holds),
    "spend caps of a page of keys": lambda db: ledger.list_keys(db, None, "", 100),
    "grant": lambda db: ledger.grant(db, KEY, 5, "promo", "test", "reference:1"),
    "grant again": lambda db: ledger.grant(db, KEY, 5, "promo", "test", "reference:1"),
    "progress of a sale": lambda db: sales.find_progress(db, "order:1"),
    "clawback": lambda db: sales.claw(db, KEY, 5, "test", "claw:2"),
    "a key that is seen first": lambda db: adoption.adopt(db, bytes(32), "key_new", "user", 5),
    "what has moved": lambda db: _read_moved(db, 1_000),
    "how far the ledger has got": read_fence,
    "who is low": lambda db: LowBalances(None, Outbox(is_on=False), [5], "me", every_seconds=1)._find_crossed(
        db, [1, 2]
    ),
    "old events": lambda db: inbox.forget(db, 5, 500),
    "old answers": lambda db: answers.forget_old(db, holds, 5),
    "old notifications": lambda db: outbox.forget(db, 5, 500),
}


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "books.db"
    asyncio.run(fill(f"sqlite:///{path}", keys=40, entries=2_000))
    return path


def plans(path, statements: list[str]) -> list[str]:
    """How SQLite goes about these statements."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return [
            row[3]
            for statement in statements
            if statement.split()[0] in {"SELECT", "WITH", "INSERT", "UPDATE", "DELETE"}
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_a_table_that_grows(books, question):
    statements: list[str] = []

    def ask(connection):
        driver = connection.connection.driver_connection
        driver.set_trace_callback(statements.append)
        try:
            QUESTIONS[question](connection)
        finally:
            driver.set_trace_callback(None)

    run(f"sqlite:///{books}", ask)
    found = plans(books, statements)
    assert found, statements
    assert [step for step in found if GROWS.search(step)] == [], statements


@pytest.fixture(scope="module")
def postgres_books(postgres, books, tmp_path_factory):
    """The same books there."""
    url, file = postgres.create(), tmp_path_factory.mktemp("plans") / "books.jsonl"
    export_to(f"sqlite:///{books}", file)
    import_from(file, url)
    return url


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_a_table_that_grows_in_postgresql(postgres_books, question):
    """Sequential scans are made dear: one that is left is one that no index can spare."""
    asked: list[tuple[str, object]] = []
    found: list[str] = []

    def note(_connection, _cursor, statement, parameters, _context, _executemany):
        asked.append((statement, parameters))

    def ask(connection):
        event.listen(connection, "before_cursor_execute", note)
        QUESTIONS[question](connection)
        event.remove(connection, "before_cursor_execute", note)
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        cursor = connection.connection.driver_connection.cursor()
        for statement, parameters in asked:
            cursor.execute(f"EXPLAIN {statement}", parameters)
            found.extend(line for (line,) in cursor.fetchall())

    run(postgres_books, ask)
    assert found
    assert [line for line in found if READS.search(line)] == [], asked


@pytest.mark.parametrize("question", [name for name in QUESTIONS if "page of history" in name])
def test_each_step_along_a_history_is_by_index_also_where_postgresql_knows_nothing_of_the_ledger(
    postgres_books, question
):
    """Left to choose, it read the whole ledger for each step: 73 ms a page of 6,000 entries."""
    asked: list[tuple[str, object]] = []
    found: list[str] = []

    def note(_connection, _cursor, statement, parameters, _context, _executemany):
        asked.append((statement, parameters))

    def ask(connection):
        connection.exec_driver_sql("DELETE FROM pg_statistic WHERE starelid = 'entries'::regclass")
        event.listen(connection, "before_cursor_execute", note)
        QUESTIONS[question](connection)
        event.remove(connection, "before_cursor_execute", note)
        cursor = connection.connection.driver_connection.cursor()
        cursor.execute(f"EXPLAIN ANALYZE {asked[-1][0]}", asked[-1][1])  # without, it does not show subplans
        found.extend(line for (line,) in cursor.fetchall())

    run(postgres_books, ask)
    steps = found[next(number for number, line in enumerate(found) if "WorkTable Scan" in line) :]
    depth = len(steps[0]) - len(steps[0].lstrip())
    inner = itertools.takewhile(lambda line: len(line) - len(line.lstrip()) > depth, steps[1:])
    assert any("Index Scan using entries_pkey" in line for line in inner), "\n".join(found)


def run(url, work) -> None:
    async def main():
        database = open_database(url)
        try:
            await database.transaction(work)
        finally:
            await database.aclose()

    asyncio.run(main())


def test_no_call_reads_a_table_that_grows(books):
    """A batch of the journal: holds taken, and ended."""
    statements: list[str] = []
    database = open_database(f"sqlite:///{books}")
    assert isinstance(database, SqliteDatabase)
    store = SqliteStore(database, HOLDS)
    store._connection.set_trace_callback(statements.append)
    transaction = Transaction(store, lambda: (DEAD_INSTANCE + 1) * HOLDS_PER_INSTANCE + 1)
    takes = [
        Take(None, sha256(b"%d" % n).digest(), 2, "/v1/personas", f"r{n}", 0.0, claim=Claim(b"%d" % n, b"", 1))
        for n in (1, 4, 5)
    ]
    finish(transaction.commit(takes, []))
    takes[-1].claim.is_void = True
    finish(transaction.commit([], [End(None, take.outcome, 1, None, 0.0, claim=take.claim) for take in takes]))
    transaction.close()
    database.close()
    found = plans(books, statements)
    assert any("entries" in step for step in found)
    assert any("spend_caps" in step for step in found), "key 1 has a cap"
    assert [step for step in found if GROWS.search(step)] == []
