"""The stand-in persona service over real sockets: honest by default, and wrong exactly as its switches say."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest
import uvloop

from gateway.sandbox.people import make_persona
from gateway.sandbox.persona import start_persona_server
from tests.sandbox.exchange import TIMEOUT_SECONDS, dechunk, exchange, parse, request

PERSONAS = "/v1/personas"
SEEDED = {"seed": 7}
DOCUMENT = json.dumps(make_persona(7, "en"), ensure_ascii=False, separators=(",", ":")).encode()
STALL_SECONDS = 0.3


@asynccontextmanager
async def persona_server():
    server = await start_persona_server()
    try:
        yield server
    finally:
        await server.aclose()


@pytest.fixture
def in_loop():
    """Runs `story(server)` beside a server, in uvloop as in production."""

    def run(story):
        async def tell():
            async with persona_server() as server:
                return await story(server)

        return uvloop.run(tell())

    return run


def call(in_loop, method="POST", path=PERSONAS, *, body=SEEDED, **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return in_loop(lambda server: exchange(server.port, method, path, body=body, headers=fields))


def read_events(body):
    """The events of a complete stream, and its trailers."""
    chunks, trailers = dechunk(body)
    events = []
    for block in b"".join(chunks).decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events, trailers


async def eventually(condition):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


async def unchanging(value, rounds=20):
    """The value once it has stayed the same for so many looks, 5 ms apart."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    seen, same = value(), 0
    while same < rounds:
        assert time.monotonic() < deadline, "it never came to rest"
        await asyncio.sleep(0.005)
        same = same + 1 if value() == seen else 0
        seen = value()
    return seen


# Honest answers.


def test_a_seeded_call_is_answered_with_that_person(in_loop):
    answer = call(in_loop)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.body == DOCUMENT
    assert int(answer.headers["content-length"]) == len(DOCUMENT)


def test_an_empty_call_makes_somebody_new_each_time(in_loop):
    assert call(in_loop, body=None).document["id"] != call(in_loop, body=None).document["id"]


def test_the_id_of_a_persona_makes_it_again(in_loop):
    made = call(in_loop, body={"locale": "de"})
    assert call(in_loop, "GET", f"{PERSONAS}/{made.document['id']}", body=None).body == made.body


def test_a_count_makes_so_many_different_people(in_loop):
    people = call(in_loop, body={"seed": 7, "count": 3}).document["personas"]
    assert people[0] == json.loads(DOCUMENT)
    assert len({person["id"] for person in people}) == 3


@pytest.mark.parametrize("how", [{"body": {"seed": 7, "stream": True}}, {"Accept": "text/event-stream"}])
def test_a_stream_tells_each_field_and_then_the_whole(in_loop, how):
    answer = call(in_loop, **how)
    assert answer.headers["content-type"] == "text/event-stream"
    events, trailers = read_events(answer.body)
    deltas = [event for name, event in events[:-1] if name == "persona.delta"]
    assert len(deltas) == len(events) - 1
    assert {delta["field"]: delta["value"] for delta in deltas} == json.loads(DOCUMENT)
    assert events[-1] == ("persona.done", json.loads(DOCUMENT))
    assert trailers == {}


def test_stream_false_wins_over_the_accept_header(in_loop):
    assert call(in_loop, body={"seed": 7, "stream": False}, Accept="text/event-stream").body == DOCUMENT


def test_status_is_for_everybody(in_loop):
    assert call(in_loop, "GET", "/status", body=None).document == {"status": "ok"}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "object"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"count": 0}, "count"),
        ({"count": 101}, "count"),
        ({"locale": "xx"}, "locale"),
        ({"locale": ["en"]}, "locale"),
        ({"stream": "yes"}, "stream"),
        ({"sed": 1}, "sed"),
    ],
)
def test_a_bad_body_is_a_422_that_says_what_is_wrong(in_loop, body, word):
    answer = call(in_loop, body=body)
    assert answer.status == 422
    assert word in answer.document["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", PERSONAS, 405),
        ("HEAD", PERSONAS, 405),
        ("DELETE", f"{PERSONAS}/persona_en_7", 405),
        ("GET", f"{PERSONAS}/persona_en_x", 404),
    ],
)
def test_what_is_not_served_is_refused(in_loop, method, path, status):
    assert call(in_loop, method, path, body=None).status == status


def test_bytes_that_are_not_http_are_refused_and_the_connection_closed(in_loop):
    async def story(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"NONSENSE\r\n\r\n")
        raw = await asyncio.wait_for(reader.read(), TIMEOUT_SECONDS)
        writer.close()
        return parse(raw)

    assert in_loop(story).status == 400


def test_one_connection_serves_pipelined_calls_in_order(in_loop):
    async def story(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        calls = [request("POST", PERSONAS, body={"seed": seed}) for seed in range(200)]
        closing = request("GET", "/status", headers={"Connection": "close"})
        writer.write(b"".join(calls) + closing)
        raw = await asyncio.wait_for(reader.read(), TIMEOUT_SECONDS)
        writer.close()
        return raw

    raw = in_loop(story)
    found = [raw.find(f'"id":"persona_en_{seed:x}"'.encode()) for seed in range(200)]
    assert -1 not in found
    assert found == sorted(found)


def test_a_caller_that_reads_nothing_holds_its_calls_up_and_loses_none(in_loop):
    calls, people = 400, {"seed": 7, "count": 100}

    async def story(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 18)
        padding = {"X-Padding": "x" * 4000}
        writer.write(request("POST", PERSONAS, body=people, headers=padding) * calls)
        await eventually(lambda: server.calls.document()["calls"] > 0)
        stuck = await unchanging(lambda: server.calls.document()["calls"])
        body = b"".join([await asyncio.wait_for(reader.readuntil(b"]}"), TIMEOUT_SECONDS) for _ in range(calls)])
        writer.close()
        return stuck, body.count(b"HTTP/1.1 200 OK")

    stuck, answered = in_loop(story)
    assert stuck < calls
    assert answered == calls


def test_a_trailer_is_no_header(in_loop):
    async def story(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = f"POST {PERSONAS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode() + b"2\r\n{}\r\n0\r\nX-Sandbox: fail=503\r\nX-Gateway-Key-Id: a\r\n\r\n")
        raw = await asyncio.wait_for(reader.read(), TIMEOUT_SECONDS)
        writer.close()
        return parse(raw).status, server.calls.document()["by_key"]

    assert in_loop(story) == (200, {})


def test_an_answer_to_head_has_no_body(in_loop):
    assert call(in_loop, "HEAD", "/status", body=None).body == b""


# Switches.


def test_fail_answers_the_status_it_names(in_loop):
    assert call(in_loop, X_Sandbox="fail=503").status == 503
    assert call(in_loop, X_Sandbox="fail=599").status == 599


def test_stall_keeps_the_head_back(in_loop):
    begun = time.monotonic()
    assert call(in_loop, X_Sandbox=f"stall={STALL_SECONDS}").body == DOCUMENT
    assert time.monotonic() - begun >= STALL_SECONDS


@pytest.mark.parametrize("stream", [False, True])
def test_stall_body_sends_the_head_and_keeps_the_rest_back(in_loop, stream):
    async def story(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        headers = {"X-Sandbox": f"stall_body={STALL_SECONDS}", "Connection": "close"}
        writer.write(request("POST", PERSONAS, body={"seed": 7, "stream": stream}, headers=headers))
        await reader.readuntil(b"\r\n\r\n")
        begun = time.monotonic()
        body = await asyncio.wait_for(reader.read(), TIMEOUT_SECONDS)
        writer.close()
        return body, time.monotonic() - begun

    body, seconds = in_loop(story)
    assert seconds >= STALL_SECONDS * 0.9
    assert (read_events(body)[0][-1][1] if stream else json.loads(body)) == json.loads(DOCUMENT)


def test_slow_stream_waits_between_events(in_loop):
    begun = time.monotonic()
    answer = call(in_loop, body={"seed": 7, "stream": True}, X_Sandbox="slow_stream=0.03")
    events, _ = read_events(answer.body)
    assert time.monotonic() - begun >= 0.03 * (len(events) - 1)


def test_reset_breaks_the_connection_without_a_byte(in_loop):
    with pytest.raises(ConnectionResetError):
        call(in_loop, X_Sandbox="reset")


def test_truncate_closes_in_the_middle_of_the_body(in_loop):
    answer = call(in_loop, X_Sandbox="truncate")
    assert int(answer.headers["content-length"]) == len(DOCUMENT)
    assert 0 < len(answer.body) < len(DOCUMENT)


def test_a_truncated_stream_has_no_last_chunk(in_loop):
    answer = call(in_loop, body={"seed": 7, "stream": True}, X_Sandbox="truncate")
    assert b"persona.delta" in answer.body
    assert b"persona.done" not in answer.body
    assert not answer.body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(("switch", "bytes_off"), [("lie_length", -10), ("lie_length=25", 25), ("lie_length=-1", -1)])
def test_lie_length_announces_another_length_than_it_sends(in_loop, switch, bytes_off):
    answer = call(in_loop, X_Sandbox=switch)
    assert answer.body == DOCUMENT
    assert int(answer.headers["content-length"]) == len(DOCUMENT) + bytes_off


def test_a_lying_stream_breaks_its_chunk_framing(in_loop):
    answer = call(in_loop, body={"seed": 7, "stream": True}, X_Sandbox="lie_length")
    with pytest.raises(AssertionError, match="announced size"):
        dechunk(answer.body)


@pytest.mark.parametrize("used", ["7", "banana", "-3"])
def test_credits_used_is_a_header_or_in_a_stream_a_trailer(in_loop, used):
    assert call(in_loop, X_Sandbox=f"credits_used={used}").headers["x-credits-used"] == used
    streamed = call(in_loop, body={"seed": 7, "stream": True}, X_Sandbox=f"credits_used={used}")
    assert "x-credits-used" not in streamed.headers
    assert streamed.headers["trailer"] == "X-Credits-Used"
    assert read_events(streamed.body)[1] == {"x-credits-used": used}


def test_an_unknown_switch_is_refused_by_name(in_loop):
    answer = call(in_loop, X_Sandbox="explode")
    assert answer.status == 400
    assert "explode" in answer.document["error"]["message"]


def test_switches_set_for_all_hold_until_they_are_reset(in_loop):
    async def story(server):
        statuses = []
        for method, path, body in [
            ("POST", "/sandbox/switches", {"fail": 502}),
            ("POST", PERSONAS, SEEDED),
            ("GET", "/status", None),
            ("DELETE", "/sandbox/switches", None),
            ("POST", PERSONAS, SEEDED),
        ]:
            statuses.append((await exchange(server.port, method, path, body=body)).status)
        return statuses

    assert in_loop(story) == [200, 502, 200, 200, 200]


# Its own books.


def test_calls_and_usable_answers_are_counted_by_key(in_loop):
    async def story(server):
        for key_id, switch in [("a", ""), ("a", "fail=503"), ("b", "fail=404"), ("b", "truncate"), ("", "")]:
            headers = {"X-Gateway-Key-Id": key_id, "X-Sandbox": switch}
            await exchange(server.port, "POST", PERSONAS, body=SEEDED, headers=headers)
        with pytest.raises(ConnectionResetError):
            await exchange(server.port, "POST", PERSONAS, body=SEEDED, headers={"X-Sandbox": "reset"})
        return (await exchange(server.port, "GET", "/sandbox/calls")).document

    assert in_loop(story) == {
        "calls": 6,
        "usable": 4,
        "open": 0,
        "by_key": {"a": {"calls": 2, "usable": 1}, "b": {"calls": 2, "usable": 2}},
    }


def test_a_call_ends_when_its_caller_leaves_and_was_not_usable(in_loop):
    async def story(server):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("POST", PERSONAS, body=SEEDED, headers={"X-Sandbox": "stall=60"}))
        await eventually(lambda: server.calls.open == 1)
        writer.close()
        await eventually(lambda: server.calls.open == 0)
        return server.calls.document()

    counted = in_loop(story)
    assert (counted["calls"], counted["usable"]) == (1, 0)


def test_resetting_the_counts_keeps_what_is_running(in_loop):
    async def story(server):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("POST", PERSONAS, body=SEEDED, headers={"X-Sandbox": "stall=60"}))
        await eventually(lambda: server.calls.open == 1)
        fresh = (await exchange(server.port, "DELETE", "/sandbox/calls")).document
        writer.close()
        await eventually(lambda: server.calls.open == 0)
        return fresh

    assert in_loop(story) == {"calls": 0, "usable": 0, "open": 1, "by_key": {}}


def test_closing_breaks_off_what_is_running(in_loop):
    async def story(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("POST", PERSONAS, body=SEEDED, headers={"X-Sandbox": "stall=60"}))
        await eventually(lambda: server.calls.open == 1)
        await server.aclose()
        left = (await asyncio.gather(reader.read(), return_exceptions=True))[0]
        assert left == b"" or isinstance(left, ConnectionResetError)
        writer.close()
        return server.calls.open

    assert in_loop(story) == 0


def test_as_a_process_it_says_where_it_is_and_ends_quietly():
    command = [sys.executable, "-m", "gateway.sandbox.persona", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline().strip()
            prefix = "persona sandbox on http://"
            assert line.startswith(prefix)
            connection = http.client.HTTPConnection(line.removeprefix(prefix), timeout=TIMEOUT_SECONDS)
            connection.request("POST", PERSONAS, body=json.dumps(SEEDED))
            assert connection.getresponse().read() == DOCUMENT
            connection.close()
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
