"""PostgreSQL as the doctor finds it."""

from __future__ import annotations

import time

import pytest

from gateway.database.tables import HOLDS_PER_INSTANCE
from gateway.doctor.database import examine_database
from tests.database.postgres import rows
from tests.doctor.conftest import told


def examined(url):
    return told(examine_database(url))


def test_a_sound_database_is_told_with_what_the_server_does_not_keep(postgres):
    found = {what: state for what, (state, _) in examined(postgres.create()).items()}
    assert found == {
        "database": "ok",
        "database: writing": "ok",
        "database: fsync": "warn",  # the tests' server has it off
        "database: full_page_writes": "ok",
        "database: synchronous_commit": "ok",
        "database: schema": "ok",
        "database: open holds": "ok",
        "database: movements in doubt": "ok",
    }


def test_what_is_open_in_the_books_is_told(postgres):
    url = postgres.create()
    now_ms = int(time.time() * 1000)
    rows(url, "INSERT INTO instances (id, beat, started_at, batch) VALUES (7, 1, 0, 0)")
    for number, instance in enumerate((7, 8)):
        values = instance * HOLDS_PER_INSTANCE + number, now_ms - 125_000
        rows(url, "INSERT INTO holds VALUES (?, 1, 5, '/r', 'req', 0, ?)", *values)
    rows(url, "INSERT INTO leases (name, owner, until, done_at, position) VALUES ('import', 'x', 0, 0, 12)")
    found = examined(url)
    state, text = found["database: open holds"]
    assert (state, text.partition(":")[0]) == ("warn", "2, the oldest for 2 min; 1 of processes that are gone")
    assert found["database: import"][0] == "FAIL"


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("CREATE TABLE alembic_version (version_num text)", "gateway migrate"),
        ("SELECT 1", "no tables yet"),
    ],
)
def test_a_database_without_our_tables_is_a_failure_that_says_what_to_run(postgres, made, says):
    url = postgres.create(template="template1")
    rows(url, made)
    state, text = examined(url)["database: schema"]
    assert state == "FAIL"
    assert says in text


def test_a_server_that_is_not_there_is_a_failure_without_its_password():
    ((state, text),) = examined("postgresql://me:secret@127.0.0.1:9/books").values()
    assert state == "FAIL"
    assert "secret" not in text
