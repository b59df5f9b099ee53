"""The database as the doctor finds it. It is left as it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time

import pytest

from gateway.database import inspection
from gateway.database.engine import open_database
from gateway.database.schema import known_revisions
from gateway.database.tables import HOLDS_PER_INSTANCE
from gateway.doctor import database as module
from gateway.doctor.database import examine_database
from tests.doctor.conftest import told

SOUND = {
    "database": "ok",
    "database: schema": "ok",
    "database: write lock": "ok",
    "database: integrity": "ok",
    "database: open holds": "ok",
    "database: movements in doubt": "ok",
    "database: free space": "ok",
}


@pytest.fixture(autouse=True)
def _room(monkeypatch):
    """However full the disk of this machine is."""
    monkeypatch.setattr(module, "SPACE_WARN_BYTES", 1)
    monkeypatch.setattr(module, "SPACE_FAIL_BYTES", 1)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "odd #name.db"
    open_database(f"sqlite:///{path}").close()
    return path


def examined(path):
    return told(examine_database(f"sqlite:///{path}"))


def states(path):
    return {what: state for what, (state, _) in examined(path).items()}


def execute(path, *statements):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement, *values in statements:
            connection.execute(statement, values)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hold(instance, age_seconds, number=1):
    values = (instance * HOLDS_PER_INSTANCE + number, int((time.time() - age_seconds) * 1000))
    return ("INSERT INTO holds VALUES (?, 1, 5, '/r', 'req', 0, ?)", *values)


ALIVE = ("INSERT INTO instances (id, beat, started_at) VALUES (7, 1, 1)",)


def test_a_sound_database_is_ok_throughout_and_is_left_as_it_was(path):
    before = digest(path)
    assert states(path) == SOUND
    assert digest(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_one_that_is_in_use_is_ok_too(path):
    database = open_database(f"sqlite:///{path}")
    try:
        assert states(path) == SOUND
    finally:
        database.close()


def test_none_is_made_where_there_is_none(tmp_path):
    path = tmp_path / "data" / "gateway.db"
    found = examined(path)
    assert found["database"][0] == "warn"
    assert "the first start makes it" in found["database"][1]
    assert list(tmp_path.iterdir()) == []


def test_where_none_can_be_made_is_a_failure(tmp_path):
    (tmp_path / "data").write_text("a file where the directory should be")
    state, text = examined(tmp_path / "data" / "gateway.db")["database"]
    assert (state, "can't be made" in text) == ("FAIL", True)


def test_what_is_no_database_is_a_failure(tmp_path):
    path = tmp_path / "gateway.db"
    path.write_text("neither SQLite's nor anybody's " * 100)
    assert examined(path)["database"] == (
        "FAIL",
        "file is not a database: see the path, the file and whose it is",
    )
    assert examined(tmp_path)["database"][0] == "FAIL", "a directory"


def test_an_older_schema_is_brought_up_by_the_next_start_a_newer_one_refused(path):
    older = known_revisions()[-1]
    execute(path, ("UPDATE alembic_version SET version_num = ?", older))
    state, text = examined(path)["database: schema"]
    assert state == "warn"
    assert older in text
    assert known_revisions()[0] in text
    assert "database: open holds" not in examined(path), "its tables may be others"
    execute(path, ("UPDATE alembic_version SET version_num = '9999'",))
    assert examined(path)["database: schema"][0] == "FAIL"
    execute(path, ("DROP TABLE alembic_version",))
    assert examined(path)["database: schema"][0] == "warn"


def test_a_write_lock_that_is_never_let_go_is_a_failure(path, monkeypatch):
    monkeypatch.setattr(inspection, "BUSY_TIMEOUT_MS", 50)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        found = examined(path)
    state, text = found["database: write lock"]
    assert (state, "locked" in text) == ("FAIL", True)
    assert found["database: integrity"][0] == "ok", "the rest is told all the same"


def test_a_broken_file_is_a_failure(path):
    execute(
        path,
        ("PRAGMA wal_checkpoint(TRUNCATE)",),
        ("PRAGMA journal_mode = DELETE",),
        ("CREATE TABLE filler (text UNIQUE)",),
        *[("INSERT INTO filler VALUES (?)", f"{number:064}") for number in range(2_000)],
    )
    data = bytearray(path.read_bytes())
    for page in range(len(data) // 4096 - 8, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(data)
    state, text = examined(path)["database: integrity"]
    assert state == "FAIL"
    assert "restore the last backup" in text


def test_a_database_too_large_to_look_through_is_told(path, monkeypatch):
    monkeypatch.setattr(module, "QUICK_CHECK_SECONDS", -1)
    monkeypatch.setattr(inspection, "STEPS", 1)
    state, text = examined(path)["database: integrity"]
    assert (state, "not known" in text) == ("warn", True)
    assert states(path)["database: open holds"] == "ok", "it goes on"


def test_open_holds_are_told_with_the_age_of_the_oldest(path):
    execute(path, ALIVE, hold(7, 30), hold(7, 125, 2))
    assert examined(path)["database: open holds"] == ("ok", "2, the oldest for 2 min")
    execute(path, hold(7, 3 * 3600, 3))
    state, text = examined(path)["database: open holds"]
    assert (state, "3 h" in text) == ("warn", True)


@pytest.mark.parametrize("table", ["holds", "unkey_holds"])
def test_holds_that_nobody_will_end_are_told(path, table):
    if table == "holds":
        execute(path, hold(8, 1))
    else:
        row = (8 * HOLDS_PER_INSTANCE, int(time.time() * 1000))
        execute(path, ("INSERT INTO unkey_holds VALUES (?, 0, x'00', 5, 0, 5, '/r', 'req', 0, ?)", *row))
    state, text = examined(path)["database: open holds"]
    assert (state, "1 of processes that are gone" in text) == ("warn", True)
    execute(path, ("INSERT INTO instances (id, beat, started_at) VALUES (8, 1, 1)",))
    assert examined(path)["database: open holds"][0] == "ok"


def test_an_import_that_is_not_finished_is_a_failure(path):
    execute(path, ("INSERT INTO leases (name, owner, until, done_at, position) VALUES ('import', 'x', 0, 0, 12)",))
    state, text = examined(path)["database: import"]
    assert state == "FAIL"
    assert "12 rows are in" in text
    assert "gateway import" in text


def test_a_clock_that_was_set_back_makes_no_age_below_0(path):
    execute(path, ALIVE, hold(7, -3600))
    assert examined(path)["database: open holds"] == ("ok", "1, the oldest for 0 s")


def test_what_only_a_person_can_decide_is_counted(path):
    doubt = "INSERT INTO doubts (key, key_hash, amount, route, request_id, cause, created_at, resolution)"
    grant = "INSERT INTO grants (key, entry, amount, state, attempts, due_at, created_at, updated_at)"
    execute(path, (f"{doubt} VALUES (1, x'00', 5, '/r', 'req', 'c', 1, NULL)",))
    execute(path, (f"{doubt} VALUES (1, x'00', 5, '/r', 'req', 'c', 1, 'applied')",))
    execute(path, (f"{grant} VALUES (1, 1, 5, 'in_doubt', 1, 1, 1, 1)",))
    execute(path, (f"{grant} VALUES (1, 2, 5, 'applied', 1, 1, 1, 1)",))
    state, text = examined(path)["database: movements in doubt"]
    assert state == "warn"
    assert text.startswith("2: `gateway orders list`")


def test_a_key_whose_cap_nobody_counts_is_told(path):
    key = "INSERT INTO keys (key_id, key_hash, start, user_id, balance, held, enabled, created_at, capped)"
    for number, capped in enumerate((0, 1)):
        execute(path, (f"{key} VALUES ('k{number}', ?, 's', 'u', 0, 0, 1, 0, {capped})", bytes([number]) * 32))
    execute(path, ("INSERT INTO spend_caps VALUES (2, 5, NULL, 0, 0, 0, 0)",))
    assert "database: spend caps" not in examined(path)
    for statement in ("UPDATE keys SET capped = 1", "UPDATE keys SET capped = 0"):
        execute(path, (statement,))
        state, text = examined(path)["database: spend caps"]
        assert (state, text[:6]) == ("FAIL", "1 keys")


def test_a_disk_that_fills_up_is_told_and_a_full_one_is_a_failure(path, monkeypatch):
    monkeypatch.setattr(module, "SPACE_WARN_BYTES", 1 << 60)
    assert examined(path)["database: free space"][0] == "warn"
    monkeypatch.setattr(module, "SPACE_FAIL_BYTES", 1 << 60)
    assert examined(path)["database: free space"][0] == "FAIL"
