"""The switches of the stand-in for Unkey: what they make of a call, and whether it takes effect."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from gateway.sandbox.fields import InvalidField
from gateway.sandbox.unkey.malformed import WAYS
from tests.sandbox.exchange import TIMEOUT_SECONDS, exchange, parse, request
from tests.sandbox.unkey_caller import ROOT_KEY, tell

PATIENCE_SECONDS = 0.2


async def raw_verify(unkey, key):
    """What answers a verification within a moment, on a connection that is kept, and whether it was closed by then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", unkey.server.port)
    headers = {"Authorization": f"Bearer {ROOT_KEY}", "Content-Type": "application/json"}
    writer.write(request("POST", "/v2/keys.verifyKey", body={"key": key}, headers=headers))
    received = b""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while piece := await reader.read(1 << 20):
                received += piece
            return received, True
    except TimeoutError:
        return received, False
    finally:
        writer.close()


async def eventually(condition):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.005)


# Failures, with and without an effect.


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ({"kind": "error"}, 500, "unkey/application/service_unavailable"),
        ({"kind": "error", "status": 503}, 503, "unkey/application/service_unavailable"),
        ({"kind": "error", "status": 408}, 408, "user/bad_request/request_timeout"),
        ({"kind": "limited", "retry_after_seconds": 7}, 429, "user/too_many_requests/workspace_rate_limited"),
    ],
)
def test_an_error_is_one_of_unkeys_and_takes_effect_only_if_told_to(fault, status, kind, takes_effect):
    async def story(unkey):
        key_id, _ = await unkey.create(10)
        unkey.faults.set(**fault, takes_effect=takes_effect, times=1)
        refusal = await unkey.refused("keys.updateCredits", keyId=key_id, operation="increment", value=5)
        assert refusal == (status, kind)
        assert await unkey.stored(key_id) == (15 if takes_effect else 10)

    tell(story)


def test_a_limited_call_is_told_when_to_come_back():
    async def story(unkey):
        unkey.faults.set(kind="limited", retry_after_seconds=7)
        answer = await unkey.ask("keys.verifyKey", {"key": "x"})
        assert (answer.status, answer.headers["retry-after"], answer.headers["ratelimit-reset"]) == (429, "7", "7")

    tell(story)


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_reset_comes_instead_of_an_answer_before_or_after_the_effect(takes_effect):
    async def story(unkey):
        key_id, key = await unkey.create(10)
        unkey.faults.set(kind="reset", takes_effect=takes_effect)
        with pytest.raises(ConnectionResetError):
            await unkey.send("keys.verifyKey", {"key": key})
        assert unkey.balances.spent[key_id] == takes_effect

    tell(story)


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_closed_connection_has_no_byte_of_an_answer(takes_effect):
    async def story(unkey):
        key_id, key = await unkey.create(10)
        unkey.faults.set(kind="closed", takes_effect=takes_effect)
        assert await raw_verify(unkey, key) == (b"", True)
        assert unkey.balances.spent[key_id] == takes_effect

    tell(story)


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_silent_call_is_never_answered_and_may_have_taken_effect(takes_effect):
    async def story(unkey):
        key_id, key = await unkey.create(10)
        unkey.faults.set(kind="silent", takes_effect=takes_effect)
        assert await raw_verify(unkey, key) == (b"", False)
        assert unkey.balances.spent[key_id] == takes_effect
        await eventually(lambda: not unkey.server._connections)

    tell(story)


def test_a_slow_call_is_answered_late():
    async def story(unkey):
        _, key = await unkey.create(10)
        unkey.faults.set(kind="slow", seconds=PATIENCE_SECONDS)
        began = time.monotonic()
        assert await unkey.cost(key, 1) == ("VALID", 9)
        assert time.monotonic() - began >= PATIENCE_SECONDS

    tell(story)


@pytest.mark.parametrize("takes_effect", [False, True])
def test_a_slow_call_whose_caller_leaves_took_effect_only_if_it_did_so_at_once(takes_effect):
    async def story(unkey):
        key_id, key = await unkey.create(10)
        unkey.faults.set(kind="slow", seconds=60, takes_effect=takes_effect)
        assert await raw_verify(unkey, key) == (b"", False)
        await eventually(lambda: not unkey.server._connections)
        assert unkey.balances.spent[key_id] == takes_effect

    tell(story)


def test_a_stale_answer_is_that_of_a_row_read_before_the_key_was_disabled():
    async def story(unkey):
        key_id, key = await unkey.create(10)
        await unkey.verify(key)
        await unkey.data("keys.updateKey", keyId=key_id, enabled=False)
        unkey.faults.set(kind="stale", times=2)
        codes = [(await unkey.verify(key))["code"] for _ in range(3)]
        assert codes == ["VALID", "VALID", "DISABLED"]
        assert unkey.balances.spent[key_id] == 3

    tell(story)


# Which calls, how many, how likely.


@pytest.mark.parametrize("name", ["updateCredits", "keys.updateCredits"])
def test_a_fault_strikes_the_call_it_names_and_as_often_as_it_says(name):
    async def story(unkey):
        key_id, _ = await unkey.create(10)
        unkey.faults.set(kind="error", call=name, times=2)
        for _ in range(2):
            assert await unkey.stored(key_id) == 10
            answer = await unkey.ask("keys.updateCredits", {"keyId": key_id, "operation": "increment", "value": 1})
            assert answer.status == 500
        assert await unkey.update_credits(key_id, "increment", 1) == {"remaining": 11}

    tell(story)


def test_of_two_faults_the_one_set_first_strikes_first():
    async def story(unkey):
        unkey.faults.set(kind="error", status=503, times=1)
        unkey.faults.set(kind="error", status=500, times=1)
        statuses = [(await unkey.ask("keys.verifyKey", {"key": "x"})).status for _ in range(3)]
        assert statuses == [503, 500, 200]

    tell(story)


def test_a_fault_with_a_probability_strikes_the_same_calls_for_the_same_seed():
    async def story(unkey):
        async def statuses():
            return [(await unkey.ask("keys.verifyKey", {"key": "x"})).status for _ in range(40)]

        unkey.faults.set(kind="error", probability=0.5)
        first = await statuses()
        unkey.faults.seed(7)
        assert await statuses() == first
        assert 5 < first.count(500) < 35
        unkey.faults.clear()
        assert set(await statuses()) == {200}

    tell(story, seed=7)


@pytest.mark.parametrize(
    "switches",
    [
        {"kind": "explode"},
        {"kind": "error", "status": 200},
        {"kind": "error", "call": "keys.destroy"},
        {"kind": "malformed", "how": "prettily"},
        {"kind": "slow", "seconds": -1},
        {"kind": "slow", "probability": 1.5},
        {"kind": "slow", "times": -1},
        {"kind": "slow", "takes_effect": 1},
        {"kind": "slow", "novelty": 1},
        {"call": "verifyKey"},
    ],
)
def test_what_no_fault_can_be_is_refused(switches):
    async def story(unkey):
        with pytest.raises(InvalidField):
            unkey.faults.set(**switches)
        assert not unkey.faults
        answer = await exchange(unkey.server.port, "POST", "/_sandbox/faults", body=[{"kind": "slow"}, switches])
        assert answer.status == 400
        assert await unkey.control("GET", "faults") == []

    tell(story)


# Malformed answers.


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("how", [way for way in WAYS if way not in ("huge", "drip")])
def test_a_call_that_is_answered_in_a_malformed_way_took_effect_unless_told_not_to(how, takes_effect):
    async def story(unkey):
        key_id, key = await unkey.create(10)
        unkey.faults.set(kind="malformed", how=how, takes_effect=takes_effect)
        received, _ = await raw_verify(unkey, key)
        assert received
        assert unkey.balances.spent[key_id] == takes_effect

    tell(story)


def malformed(how, **switches):
    """What is received in this way, and whether the connection was closed then."""

    async def story(unkey):
        _, key = await unkey.create(10)
        unkey.faults.set(kind="malformed", how=how, **switches)
        return await raw_verify(unkey, key)

    return tell(story)


@pytest.mark.parametrize(
    ("how", "status", "content_type"),
    [("not_json", 200, "text/plain"), ("html", 502, "text/html"), ("empty", 200, "application/json")],
)
def test_an_answer_that_is_no_json_is_whole(how, status, content_type):
    answer = parse(malformed(how)[0])
    assert (answer.status, answer.headers["content-type"]) == (status, content_type)
    assert int(answer.headers["content-length"]) == len(answer.body)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(answer.body)


def test_a_truncated_answer_ends_with_its_connection():
    received, closed = malformed("truncated")
    answer = parse(received)
    assert closed
    assert 0 < len(answer.body) < int(answer.headers["content-length"])


@pytest.mark.parametrize(("how", "lie"), [("long_length", 10), ("short_length", -10)])
def test_a_wrong_length_leaves_the_connection_open(how, lie):
    received, closed = malformed(how)
    answer = parse(received)
    assert not closed
    assert int(answer.headers["content-length"]) == len(answer.body) + lie
    assert answer.document["data"]["code"] == "VALID"


def test_extra_bytes_come_behind_a_whole_answer():
    received, closed = malformed("extra_bytes")
    answer = parse(received)
    length = int(answer.headers["content-length"])
    assert not closed
    assert json.loads(answer.body[:length])["data"]["code"] == "VALID"
    assert answer.body[length:].startswith(b"HTTP/1.1 200")


def test_a_bad_head_is_no_http():
    assert not malformed("bad_head")[0].startswith(b"HTTP/")


def test_a_huge_answer_is_a_verdict_with_padding():
    async def story(unkey):
        _, key = await unkey.create(10)
        unkey.faults.set(kind="malformed", how="huge", size_bytes=3_000_000)
        answer = await unkey.send("keys.verifyKey", {"key": key})
        assert int(answer.headers["content-length"]) == len(answer.body) > 3_000_000
        assert answer.document["data"]["code"] == "VALID"

    tell(story)


def test_a_dripping_answer_comes_byte_by_byte():
    async def story(unkey):
        _, key = await unkey.create(10)
        unkey.faults.set(kind="malformed", how="drip", seconds=0.01)
        early, closed = await raw_verify(unkey, key)
        assert not closed
        assert 2 < len(early) < PATIENCE_SECONDS / 0.01 + 1

    tell(story)


def test_a_dripping_answer_is_whole_in_the_end():
    async def story(unkey):
        _, key = await unkey.create(10)
        unkey.faults.set(kind="malformed", how="drip", seconds=0)
        answer = await unkey.send("keys.verifyKey", {"key": key})
        assert answer.document["data"]["code"] == "VALID"

    tell(story)


@pytest.mark.parametrize(
    ("how", "body"),
    [
        ("missing_data", {"meta": ...}),
        ("null_data", {"meta": ..., "data": None}),
        ("nothing", {}),
        ("new_code", {"meta": ..., "data": {"valid": False, "code": "SOMETHING_NEW"}}),
        ("contradiction", {"meta": ..., "data": {"valid": False, "code": "VALID"}}),
        ("wrong_types", {"meta": ..., "data": {"valid": "True", "code": ["VALID"], "credits": "9"}}),
        (
            "new_fields",
            {"meta": ..., "novelty": 1, "data": {"valid": True, "code": "VALID", "novelty": {"is": [True]}}},
        ),
    ],
)
def test_json_of_the_wrong_content_is_wrong_as_it_says(how, body):
    document = parse(malformed(how)[0]).document
    assert document.keys() == body.keys()
    if isinstance(body.get("data"), dict):
        assert {name: document["data"][name] for name in body["data"]} == body["data"]
    else:
        assert document.get("data") == body.get("data")


def test_an_answer_that_is_no_object_is_a_list():
    assert isinstance(parse(malformed("not_an_object")[0]).document, list)
