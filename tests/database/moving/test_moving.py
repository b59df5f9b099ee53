"""gateway export and import: everything arrives, once, whatever happens on the way; half of it is never served."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import sqlite3
import stat
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from gateway.credits.ledger import insert_key
from gateway.credits.local import LocalProvider, Settings
from gateway.credits.secrets import new_secret
from gateway.database.billing_tables import metadata
from gateway.database.engine import DatabaseError, open_database
from gateway.database.moving import exporting, importing
from gateway.database.moving.archive import Archive
from gateway.database.moving.bookmark import refuse_unfinished
from gateway.database.moving.failure import MovingFailed
from gateway.database.moving.opening import open_for_moving
from gateway.database.moving.tables import NOT_MOVED, TABLES
from gateway.database.tables import HOLDS_PER_INSTANCE
from gateway.deadlines import Deadlines
from tests.database.moving.books import (
    DEAD_INSTANCE,
    body,
    config_of,
    export_to,
    fill,
    finish,
    gateway,
    import_from,
    read,
    url_of,
    wait_for,
)

TORTURE = bool(os.environ.get("TORTURE"))
KILLS = 10 if TORTURE else 3
ENTRIES = 1_000_000 if TORTURE else 30_000
KEYS = 20_000 if TORTURE else 500


def rows(path: Path, query: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A database with rows in every table."""
    path = tmp_path_factory.mktemp("source") / "source.db"
    asyncio.run(fill(url_of(path), keys=50, entries=3_000))
    return path


@pytest.fixture(scope="module")
def exported(source) -> Path:
    path = source.with_name("export.jsonl")
    export_to(url_of(source), path)
    return path


def test_every_table_is_moved_but_those_that_are_named():
    assert {table.name for table in TABLES} | NOT_MOVED == set(metadata.tables)
    assert {"instances"} == NOT_MOVED


def test_every_table_of_the_example_has_rows(exported):
    """Else the others below would show less than they say."""
    header = json.loads(exported.read_bytes().splitlines()[0])
    assert [part["name"] for part in header["tables"] if not part["rows"]] == []


def test_what_was_imported_is_exported_again_to_the_byte(source, exported, tmp_path):
    import_from(exported, url_of(tmp_path / "there.db"))
    export_to(url_of(tmp_path / "there.db"), tmp_path / "again.jsonl")
    assert body(tmp_path / "again.jsonl") == body(exported)
    for table in TABLES:
        query = f"SELECT * FROM {table.name} ORDER BY 1, 2"
        assert rows(tmp_path / "there.db", query) == rows(source, query), table.name


def test_the_last_lines_say_what_the_books_come_to(source, exported):
    lines = exported.read_bytes().splitlines(keepends=True)
    totals = json.loads(lines[-2])["totals"]
    entries = Counter()
    for kind, amount in rows(source, "SELECT kind, amount FROM entries"):
        entries[kind] += amount
    assert totals["entries"] == entries
    assert totals["rows"]["entries"] == 3_000
    assert [(totals["balances"], totals["held"])] == rows(source, "SELECT sum(balance), sum(held) FROM keys")
    assert json.loads(lines[-1]) == {"sha256": hashlib.sha256(b"".join(lines[:-1])).hexdigest()}


def test_an_import_that_is_killed_goes_on_where_it_was(tmp_path):
    """kill -9 at random moments, until it comes through; 1 M entries with TORTURE=1."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    here, there, file = tmp_path / "here.db", tmp_path / "there.db", tmp_path / "export.jsonl"
    asyncio.run(fill(url_of(here), keys=KEYS, entries=ENTRIES, seed=seed))
    export_to(url_of(here), file)
    config = config_of(tmp_path, url_of(there))
    most, progress = ENTRIES + KEYS, [0]
    for _ in range(KILLS):
        goal = progress[-1] + choice.randrange(1, max(2, (most - progress[-1]) // 2))
        process = gateway("import", file, "-c", config)
        wait_for(lambda goal=goal, process=process: imported(there) >= goal or process.poll() is not None)
        process.kill()
        process.communicate()
        if process.returncode == 0:
            break
        progress.append(imported(there))
        assert progress[-1] >= progress[-2], "went back"
    assert any(progress), "never killed in the middle"
    code, said = finish(gateway("import", file, "-c", config))
    assert code == 0, said
    export_to(url_of(there), tmp_path / "again.jsonl")
    assert body(tmp_path / "again.jsonl") == body(file)


def imported(database: Path) -> int:
    """Rows of the ledger and keys that are in."""
    try:
        counts = rows(database, "SELECT position FROM leases WHERE name = 'import'")
    except sqlite3.OperationalError:
        return 0
    return counts[0][0] if counts else 0


def import_half(file: Path, url: str) -> None:
    """Stop before the end."""

    class Stopped(Exception):
        pass

    def stop(done):
        if done:
            raise Stopped

    with pytest.raises(Stopped):
        import_from(file, url, on_rows=stop)


def test_nothing_is_served_from_a_half_imported_database(exported, tmp_path):
    there = url_of(tmp_path / "there.db")
    import_half(exported, there)
    code, said = finish(gateway("serve", "-c", config_of(tmp_path, there)))
    assert code == 1
    assert "an import into it is not finished" in said
    assert "run `gateway import` with the same file again" in said
    with pytest.raises(Exception, match="not finished"):
        export_to(there, tmp_path / "half.jsonl")
    assert import_from(exported, there) > 0
    process = gateway("serve", "-c", config_of(tmp_path, there))
    try:
        wait_for(lambda: rows(tmp_path / "there.db", "SELECT 1 FROM instances") != [])
    finally:
        process.terminate()
        assert finish(process)[0] == 0


def test_a_half_imported_database_takes_no_other_export(exported, source, tmp_path):
    there = url_of(tmp_path / "there.db")
    import_half(exported, there)
    other = tmp_path / "other.jsonl"
    export_to(url_of(source), other)  # made at another time, so it is another file
    with pytest.raises(MovingFailed, match="another file"):
        import_from(other, there)


def test_two_imports_at_once_put_no_row_in_twice(exported, tmp_path):
    there = url_of(tmp_path / "there.db")
    import_half(exported, there)
    overtaken = []

    def overtake(done):
        if not overtaken:
            overtaken.append(import_from_thread(exported, there))

    with pytest.raises(MovingFailed, match="another import"):
        import_from(exported, there, on_rows=overtake)
    assert overtaken == [None]


def import_from_thread(file: Path, url: str) -> None:
    import threading

    failures = []

    def run():
        try:
            import_from(file, url)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert failures == []


@pytest.mark.parametrize("cut", [1, 70, 90, 2_000, 1_000_000_000])
def test_a_truncated_file_is_refused_before_anything_is_written(exported, tmp_path, cut):
    whole = exported.read_bytes()
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(whole[: max(0, len(whole) - cut)])
    with pytest.raises(MovingFailed):
        import_from(broken, url_of(tmp_path / "there.db"))
    assert not (tmp_path / "there.db").exists()


def test_a_file_in_which_one_byte_was_changed_is_refused(exported, tmp_path):
    choice = random.Random(5)
    whole = exported.read_bytes()
    for _ in range(40):
        changed = bytearray(whole)
        changed[choice.randrange(len(whole))] ^= 1
        (tmp_path / "changed.jsonl").write_bytes(changed)
        with pytest.raises(MovingFailed):
            Archive(tmp_path / "changed.jsonl")


def sealed(path: Path, lines: list[bytes]) -> Path:
    """A file whose checksum is right, whatever is in it."""
    text = b"".join(lines)
    path.write_bytes(text + json.dumps({"sha256": hashlib.sha256(text).hexdigest()}).encode() + b"\n")
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "the format 2"),
        ({"schema": "9999"}, "newer gateway"),
        ({"schema": "0001"}, "export with this version"),
        ({"format": "something else"}, "no export"),
        ({"tables": [{"name": "keys", "columns": ["id"], "rows": 1}]}, "export with this version"),
        ({"tables": 5}, "first line"),
    ],
)
def test_a_file_of_another_format_or_schema_is_refused(exported, tmp_path, change, message):
    lines = exported.read_bytes().splitlines(keepends=True)[:-1]
    lines[0] = json.dumps(json.loads(lines[0]) | change).encode() + b"\n"
    with pytest.raises(MovingFailed, match=message):
        import_from(sealed(tmp_path / "other.jsonl", lines), url_of(tmp_path / "there.db"))


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        ("entries", lambda row: [*row[:5], row[5] + 1, *row[6:]], "Σ"),
        ("entries", lambda row: [*row[:2], row[2] % 50 + 1, *row[3:]], "balance or held don't fit"),
        ("keys", lambda row: [*row[:3], "!", *row[4:]], "not base64"),
        ("keys", lambda row: row[:-1], "not a row of keys"),
        ("keys", lambda row: [row[0], "one", *row[2:]], "can't be written"),
    ],
)
def test_books_that_do_not_come_out_are_never_served(exported, tmp_path, table, row, message):
    lines = exported.read_bytes().splitlines(keepends=True)[:-1]
    number = next(n for n, line in enumerate(lines) if line.startswith(b'["%s"' % table.encode()))
    lines[number] = json.dumps(row(json.loads(lines[number]))).encode() + b"\n"
    there = url_of(tmp_path / "there.db")
    with pytest.raises(MovingFailed, match=message):
        import_from(sealed(tmp_path / "forged.jsonl", lines), there)
    with pytest.raises(DatabaseError, match="not finished"):
        read(there, refuse_unfinished)


def test_a_database_that_is_not_empty_is_refused(exported, source, tmp_path):
    there = tmp_path / "there.db"
    asyncio.run(fill(url_of(there), keys=1, entries=1))
    before = rows(there, "SELECT * FROM keys")
    with pytest.raises(MovingFailed, match="the database is not empty"):
        import_from(exported, url_of(there))
    assert rows(there, "SELECT * FROM keys") == before


def test_open_holds_end_at_the_destination_as_those_of_a_dead_process(exported, tmp_path):
    path = tmp_path / "there.db"
    import_from(exported, url_of(path))
    assert len(rows(path, "SELECT 1 FROM holds")) == 2

    async def run():
        database = open_database(url_of(path))
        deadlines = Deadlines(asyncio.get_running_loop())
        provider = LocalProvider(database, deadlines, Settings())
        await provider.open()
        assert provider.heart.instance > DEAD_INSTANCE, "would own the holds of the dead"
        end = time.monotonic() + 10
        while rows(path, "SELECT 1 FROM holds"):
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        await provider.aclose()
        await database.aclose()
        deadlines.close()

    asyncio.run(run())
    # The first had not been answered: free. The second had.
    ended = rows(
        path, "SELECT request_id, amount, reason FROM entries WHERE reason = 'gateway died' ORDER BY request_id"
    )
    assert ended == [("req-held-0", 0, "gateway died"), ("req-held-1", -5, "gateway died")]
    assert rows(path, "SELECT sum(held) FROM keys") == [(0,)]


def test_what_was_numbered_once_is_never_numbered_again(exported, tmp_path):
    path = tmp_path / "there.db"
    import_from(exported, url_of(path))
    given = dict(rows(path, "SELECT name, seq FROM sqlite_sequence"))
    assert given == {"instances": DEAD_INSTANCE, "doubts": 4, "grants": 6}
    assert HOLDS_PER_INSTANCE * (given["instances"] + 1) > rows(path, "SELECT max(id) FROM unkey_holds")[0][0]


def test_an_export_is_one_moment_whatever_happens_meanwhile(source, tmp_path):
    """Credits move while the rows are written. They are in it everywhere or nowhere: else the import would refuse."""
    path, file, moved = tmp_path / "busy.db", tmp_path / "export.jsonl", []
    path.write_bytes(source.read_bytes())

    def spend(_done, _of):
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            (newest,) = connection.execute("SELECT max(id) FROM entries").fetchone()
            spent = (newest + 1, 3, newest, "spend", -1, 0, 0)
            connection.execute(
                "INSERT INTO entries (id, key, previous, kind, amount, balance_after, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                spent,
            )
            connection.execute("UPDATE keys SET balance = balance - 1 WHERE id = 3")
            moved.append(newest)

    export_to(url_of(path), file, on_rows=spend)
    assert len(moved) > 5
    import_from(file, url_of(tmp_path / "there.db"))
    assert rows(tmp_path / "there.db", "SELECT count(*) FROM entries") == [(3_000,)]


def test_an_export_of_books_that_do_not_balance_is_refused(source, tmp_path):
    path = tmp_path / "broken.db"
    path.write_bytes(source.read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET balance = balance + 1 WHERE id = 9")
    with pytest.raises(MovingFailed, match=r"don't balance: key_0+9"):
        export_to(url_of(path), tmp_path / "export.jsonl")


def test_the_memory_that_is_used_does_not_grow_with_the_books(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "BATCH_ROWS", 250)
    monkeypatch.setattr(exporting, "ROWS_AT_ONCE", 250)
    peaks = []
    for entries in (1_000, 5_000):
        here, file = url_of(tmp_path / f"{entries}.db"), tmp_path / f"{entries}.jsonl"
        asyncio.run(fill(here, keys=10, entries=entries))
        for work, arguments in ((export_to, (here, file)), (import_from, (file, here + "2"))):
            tracemalloc.start()
            work(*arguments)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    small, large = max(peaks[:2]), max(peaks[2:])
    assert large < small * 2, peaks
    assert large < 64 << 20


def test_no_secret_is_in_it(tmp_path):
    url, secret, file = url_of(tmp_path / "x.db"), new_secret(), tmp_path / "export.jsonl"

    async def make():
        async with open_for_moving(url) as database:
            await database.transaction(lambda connection: insert_key(connection, secret, "user", 5, None, None))

    asyncio.run(make())
    export_to(url, file)
    assert b'"user"' in file.read_bytes()
    assert secret.encode()[12:] not in file.read_bytes()


class TestCommands:
    """What the command line adds."""

    def test_a_file_is_for_its_owner_only_and_never_written_over(self, source, tmp_path):
        file, config = tmp_path / "export.jsonl", config_of(tmp_path, url_of(source))
        code, said = finish(gateway("export", "-o", file, "-c", config))
        assert code == 0, said
        assert "3000 entries" in said
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [name.name for name in tmp_path.glob("export*")] == ["export.jsonl"]
        code, said = finish(gateway("export", "-o", file, "-c", config))
        assert code == 1
        assert "there already" in said

    def test_through_standard_output_and_back(self, source, exported, tmp_path):
        process = gateway("export", "-c", config_of(tmp_path, url_of(source)))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        (tmp_path / "piped.jsonl").write_bytes(out)
        assert body(tmp_path / "piped.jsonl") == body(exported)
        code, said = finish(
            gateway("import", tmp_path / "piped.jsonl", "-c", config_of(tmp_path, url_of(tmp_path / "x")))
        )
        assert code == 0, said
        assert "\x1b" not in said
        assert "█" not in said

    def test_an_export_beside_a_gateway_that_serves_is_refused_unless_it_is_asked_for(self, source, tmp_path):
        path = tmp_path / "served.db"
        path.write_bytes(source.read_bytes())
        config = config_of(tmp_path, url_of(path))
        serving = gateway("serve", "-c", config)
        try:
            wait_for(lambda: rows(path, "SELECT 1 FROM instances") != [])
            code, said = finish(gateway("export", "-o", tmp_path / "a", "-c", config))
            assert code == 1
            assert "a gateway serves from this database" in said
            assert not (tmp_path / "a").exists()
            assert finish(gateway("export", "--live", "-o", tmp_path / "b", "-c", config))[0] == 0
        finally:
            serving.kill()
            serving.communicate()
        assert rows(path, "SELECT 1 FROM instances") != []  # killed: it could not sign off
        code, said = finish(gateway("export", "-o", tmp_path / "c", "-c", config))
        assert code == 0, said

    def test_a_file_that_is_not_there_is_said_in_one_line(self, tmp_path):
        config = config_of(tmp_path, url_of(tmp_path / "x.db"))
        code, said = finish(gateway("import", tmp_path / "nothing.jsonl", "-c", config))
        assert code == 1
        assert said.count("\n") == 1
        assert "nothing.jsonl: No such file" in said
