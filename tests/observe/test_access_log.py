"""The access log: every call once, in whole lines, and never at the price of a call."""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import threading
import time

import pytest

from gateway.deadlines import Deadlines
from gateway.observe.access_log import AccessLog
from gateway.observe.redaction import Redaction

NOW = 1_800_000_000.25


@contextlib.contextmanager
def access_log(fd, **options):
    log = AccessLog(fd, **{"json_lines": True, "redaction": Redaction(), "clock": lambda: NOW, **options})
    try:
        yield log
    finally:
        log.close()


@pytest.fixture
def file(tmp_path):
    with open(tmp_path / "access.log", "ab") as stream:
        yield stream


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def add(log, number=0, path=b"/v1/personas", **changes):
    fields = {
        "status": 200,
        "route": "/v1/personas",
        "key_id": "key_1",
        "cost": 5,
        "verdict": "settled",
        "bytes_sent": 200,
        "duration_seconds": 0.0123,
        "upstream_seconds": 0.0101,
        **changes,
    }
    log.add(f"req_{number}", "POST", path, **fields)


def until(condition, seconds=30):
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "did not happen in time"
        time.sleep(0.005)


def written(file):
    with open(file.name) as stream:
        return stream.read().splitlines()


def test_a_record_has_every_field(file):
    with access_log(file.fileno()) as log:
        add(log)
    (line,) = written(file)
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "logger": "gateway.access",
        "request_id": "req_0",
        "method": "POST",
        "path": "/v1/personas",
        "status": 200,
        "route": "/v1/personas",
        "key_id": "key_1",
        "cost": 5,
        "verdict": "settled",
        "bytes": 200,
        "duration_ms": 12.3,
        "upstream_ms": 10.1,
        "gateway_ms": 2.2,
    }


def test_sampling_leaves_out_successes_and_nothing_else(file):
    chances = iter([0.005, 0.01, 0.5, 0.009])
    with access_log(file.fileno(), sample=0.01, chance=lambda: next(chances)) as log:
        for number in range(4):
            add(log, number)
        for number, (status, verdict) in enumerate(
            [(200, "released:4xx"), (404, "settled"), (402, "refused:out-of-credits"), (499, ""), (503, "")], 4
        ):
            add(log, number, status=status, verdict=verdict)
    assert [json.loads(line)["request_id"] for line in written(file)] == [f"req_{n}" for n in (0, 3, 4, 5, 6, 7, 8)]


def test_a_line_for_people(file):
    with access_log(file.fileno(), json_lines=False) as log:
        add(log)
    (line,) = written(file)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.250 info  gateway\.access  request_id=req_0 method=POST path=.*", line)


@pytest.mark.parametrize("json_lines", [True, False])
def test_neither_query_nor_key_nor_forged_line_gets_in(file, json_lines):
    with access_log(file.fileno(), json_lines=json_lines) as log:
        add(log, path=b"/a?mail=CANARY")
        add(log, path=b"/v1/gw_CANARYCANARY0123456789/x")
        add(log, path=b'/"\n12:00 forged\r\x1b[2K\x7f\x85\\')
        add(log, path=bytes(range(256)))
    lines = written(file)
    assert len(lines) == 4
    assert "CANARY" not in "".join(lines)
    assert all(0x20 <= ord(char) < 0x7F for char in "".join(lines))
    if json_lines:
        assert [json.loads(line)["request_id"] for line in lines] == ["req_0"] * 4


@pytest.mark.parametrize(
    "spelled",
    [b"gw%5FCANARYCANARY0123456789", b"%67w_CANARYCANARY0123456789", b"gw_%43ANARYCANARY0123456789",
     b"%65yJCANARYCANARY.CANARYC%41NARY.CANARY", b"token%3DCANARY", b"Bearer%20CANARY", b"%43ANARY-configured"],
)  # fmt: skip
def test_no_spelling_of_a_path_hides_a_secret_from_redaction(file, spelled):
    with access_log(file.fileno(), redaction=Redaction(secrets=["CANARY-configured"])) as log:
        add(log, path=b"/v1/" + spelled + b"/x")
        add(log, path=b"/caf%C3%A9/100%25/%0A%22")
    first, second = [json.loads(line)["path"] for line in written(file)]
    assert "[redacted]" in first
    assert "ANARY" not in first
    assert second == "/caf%C3%A9/100%25/%0A%22"


def test_a_long_path_is_cut_between_segments(file):
    secret = b"gw_" + b"CANARY" * 10
    with access_log(file.fileno()) as log:
        add(log, path=b"/" + b"a/" * 508 + secret)  # cut at 1 KB, it would be too short to look like a key
        add(log, path=b"/" + b"a" * 8_000)
        add(log, path=b"/" + b"b" * 1_023)
    paths = [json.loads(line)["path"] for line in written(file)]
    assert paths == ["/" + "a/" * 508 + "...", "/...", "/" + "b" * 1_023]


def test_the_shared_tick_writes_what_waits(file):
    async def run():
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop, tick_seconds=0.01)
        with access_log(file.fileno(), flush_seconds=0.02) as log:
            deadlines.watch(log)
            for number in range(3):
                add(log, number)
                give_up_at = loop.time() + 10
                while len(written(file)) <= number:
                    assert loop.time() < give_up_at
                    await asyncio.sleep(0.005)
            deadlines.close()

    asyncio.run(run())


def test_a_full_list_is_written_without_waiting_for_the_tick(file):
    with access_log(file.fileno(), flush_records=10) as log:
        for number in range(11):
            add(log, number)
        until(lambda: len(written(file)) == 10)


def test_a_stream_that_blocks_costs_no_call_its_time(pipe):
    reader, writer = pipe
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with access_log(writer, flush_records=50, waiting_max=200) as log:
        before = time.monotonic()
        for number in range(1000):
            add(log, number)
        assert time.monotonic() - before < 5  # blocking would last for ever
        assert log.dropped >= 1000 - 200 - 2 * 50 - 50
        assert len(log._waiting) <= 200
        read = bytearray()
        collector = threading.Thread(target=drain, args=(reader, read))
        collector.start()
        until(log.flush)
        add(log, 1000)
        log.close()
        os.close(writer)
        collector.join(10)
        records = [json.loads(line) for line in read.splitlines()]
        (report,) = [record for record in records if "dropped" in record]
        assert report["dropped"] == log.dropped
        assert report["level"] == "warning"
        kept = [record["request_id"] for record in records if "request_id" in record]
        assert len(kept) == len(set(kept)) == 1001 - log.dropped
        assert kept[-1] == "req_1000"


def drain(reader, into):
    while chunk := os.read(reader, 65536):
        into.extend(chunk)


def test_close_gives_up_on_a_stream_that_never_moves(pipe):
    _, writer = pipe
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    log = AccessLog(writer, json_lines=True, redaction=Redaction())
    for number in range(100):
        add(log, number)
    log.flush()
    before = time.monotonic()
    log.close(timeout_seconds=0.1)
    assert time.monotonic() - before < 5
    drained = threading.Thread(target=drain, args=(pipe[0], bytearray()))
    drained.start()
    log._writer._thread.join(10)
    os.close(writer)
    drained.join(10)


def test_two_workers_on_one_pipe_never_mix_their_lines(pipe):
    reader, writer = pipe
    read = bytearray()
    collector = threading.Thread(target=drain, args=(reader, read))
    collector.start()
    with access_log(writer) as one, access_log(os.dup(writer)) as other:
        for number in range(3000):
            add(one, f"a{number}")
            add(other, f"b{number}")
        until(lambda: one.flush() and other.flush())
        one.close()
        other.close()
        os.close(other._writer._fd)
    os.close(writer)
    collector.join(10)
    ids = [json.loads(line)["request_id"] for line in read.splitlines()]
    assert len(ids) == len(set(ids)) == 6000 - one.dropped - other.dropped


def test_a_stream_made_non_blocking_by_somebody_loses_nothing(pipe):
    reader, writer = pipe
    os.set_blocking(writer, False)
    read = bytearray()
    with access_log(writer) as log:
        for number in range(2000):
            add(log, number)
        collector = threading.Thread(target=drain, args=(reader, read))
        collector.start()
        log.close(10)
    os.close(writer)
    collector.join(10)
    assert len(read.splitlines()) == 2000


def test_a_reader_that_is_gone_harms_nobody(pipe):
    reader, writer = pipe
    os.close(reader)
    with access_log(writer) as log:
        add(log)
        until(log.flush)
        add(log)
        until(log.flush)
