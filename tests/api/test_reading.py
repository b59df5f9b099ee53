"""Bodies and queries: what could be read in two ways, or without end, is refused."""

from __future__ import annotations

import asyncio
import json

import pytest
import uvloop

from gateway.api.operation import BODY_MAX_BYTES
from gateway.api.reading import LONG_BODIES_MAX, LONG_BYTES, BodyReader, CallerLeft
from gateway.errors import BodyTooLarge, Overloaded
from tests.api.harness import ADMIN_TOKEN

JSON = {"content-type": "application/json"}

MALFORMED = {
    "no JSON": b"{",
    "text behind it": b"{} x",
    "two objects": b"{}{}",
    "a member twice": b'{"user_id":"a","user_id":"b"}',
    "a member twice, escaped": b'{"user_id":"a","user\\u005fid":"b"}',
    "a member twice inside": b'{"user_id":"a","x":{"y":1,"y":2}}',
    "NaN": b'{"credits":NaN}',
    "Infinity": b'{"credits":Infinity}',
    "-Infinity": b'{"credits":-Infinity}',
    "nested": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000,
    "not UTF-8": b'{"user_id":"\xff"}',
    "UTF-16": '{"user_id":"a"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "single quotes": b"{'user_id':'a'}",
    "a comment": b'{"user_id":"a"/**/}',
    "a comma too many": b'{"user_id":"a",}',
    "a control character": b'{"user_id":"a\nb"}',
    "white space": b"   ",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_400(with_api, body):
    async def test(api):
        answer = await api.call("POST /api-keys", admin=True, headers=JSON, content=body)
        assert (answer.status, answer.slug) == (400, "bad-request")
        assert len(answer.body) < 500
        assert (await api.call("GET /api-keys", admin=True)).json["api_keys"] == []

    with_api(test)


@pytest.mark.parametrize("document", [[], "a", 1, True, [{"user_id": "a"}], None], ids=str)
def test_a_body_that_is_no_object_is_refused(with_api, document):
    async def test(api):
        answer = await api.call("POST /api-keys", admin=True, headers=JSON, content=json.dumps(document).encode())
        assert list(answer.errors) == ["body"]

    with_api(test)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("content-type", "text/plain")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "application/problem+json")],
        [("content-type", "application/json; charset=utf-16")],
        [("content-type", "application/jsonp")],
        [("content-type", "application/json"), ("content-type", "application/json")],
        [("content-type", "application/json"), ("content-encoding", "gzip")],
    ],
    ids=str,
)
def test_a_body_of_another_type_is_415(with_api, headers):
    async def test(api):
        answer = await api.call("POST /api-keys", admin=True, headers=headers, content=b'{"user_id":"a"}')
        assert (answer.status, answer.slug) == (415, "unsupported-media-type")

    with_api(test)


@pytest.mark.parametrize("value", ["application/json", "Application/JSON", 'application/json; charset="UTF-8"'])
def test_json_is_recognised_as_it_may_be_written(with_api, value):
    async def test(api):
        headers = {"content-type": value}
        assert (await api.call("POST /api-keys", user="alice", headers=headers, content=b"{}")).status == 201

    with_api(test)


def test_no_body_is_an_empty_object(with_api):
    async def test(api):
        assert (await api.call("POST /api-keys", user="alice")).status == 201

    with_api(test)


def test_a_body_that_is_too_long_is_413(with_api):
    async def test(api):
        body = b" " * (BODY_MAX_BYTES + 1)
        answer = await api.call("POST /api-keys", admin=True, headers=JSON, content=body)
        assert (answer.status, answer.slug) == (413, "body-too-large")
        assert answer.json["limit_bytes"] == BODY_MAX_BYTES

    with_api(test)


def test_names_that_callers_make_up_do_not_make_long_answers(with_api):
    async def test(api):
        document = {f"{'x' * 1_000}{number}": 1 for number in range(500)}
        answer = await api.call("POST /api-keys", document, admin=True)
        assert answer.status == 422
        assert len(answer.body) < 5_000
        odd = await api.call("POST /api-keys", {"\ud800\n\0": 1}, user="alice")
        assert odd.errors

    with_api(test)


def test_a_refusal_does_not_repeat_what_was_sent(with_api):
    async def test(api):
        document = {"user_id": {"a": "a-secret"}, "credits": "another-secret", "name": ["third-secret"]}
        answer = await api.call("POST /api-keys", document, admin=True)
        assert answer.errors.keys() == {"user_id", "credits", "name"}
        assert b"secret" not in answer.body

    with_api(test)


@pytest.mark.parametrize("query", ["a", "limit=5&limit=6", "limit", "=", "%ff=1", "&".join("a=1" for _ in range(17))])
def test_a_query_that_is_none_is_refused(with_api, query):
    async def test(api):
        assert (await api.call(f"GET /api-keys?{query}", admin=True)).status in {400, 422}

    with_api(test)


# The reader alone


def receive_of(*pieces, more_after=False):
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if not more_after:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    asked = []

    async def receive():
        asked.append(1)
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive, asked


def test_a_length_that_is_told_is_refused_before_anything_is_read():
    async def main():
        receive, asked = receive_of(b"x")
        with pytest.raises(BodyTooLarge):
            await BodyReader().read([(b"content-length", b"11")], receive, 10)
        assert not asked

    uvloop.run(main())


def test_a_length_that_is_not_told_is_refused_as_soon_as_it_is_too_long():
    async def main():
        receive, asked = receive_of(*[b"x" * 6] * 100)
        with pytest.raises(BodyTooLarge):
            await BodyReader().read([], receive, 10)
        assert len(asked) == 2

    uvloop.run(main())


def test_a_caller_who_leaves_in_the_middle_is_noticed():
    async def main():
        receive, _ = receive_of(b"x", more_after=True)
        with pytest.raises(CallerLeft):
            await BodyReader().read([], receive, 10)

    uvloop.run(main())


def test_few_long_bodies_are_kept_in_memory_at_once():
    async def main():
        reader, gate = BodyReader(), asyncio.Event()

        def slow():
            sent = []

            async def receive():
                if sent:
                    await gate.wait()
                sent.append(1)
                return {"type": "http.request", "body": b"x" * (LONG_BYTES + 1), "more_body": len(sent) == 1}

            return receive

        reading = [asyncio.create_task(reader.read([], slow(), 10**6)) for _ in range(LONG_BODIES_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await reader.read([], slow(), 10**6)
        gate.set()
        assert len(await asyncio.gather(*reading)) == LONG_BODIES_MAX
        assert await reader.read([], slow(), 10**6)

    uvloop.run(main())


def test_every_operation_refuses_what_is_no_json_and_none_fails(with_api):
    async def test(api):
        made = await api.new_key()
        posts = ["/api-keys", f"/api-keys/{made['key_id']}/rotate", "/credits/adjustments", "/checkout"]
        for path in posts:
            for body in (b"\0", b"[]", b'{"a":NaN}', b"\xff"):
                sent = {**JSON, "authorization": f"Bearer {ADMIN_TOKEN}"}
                answer = await api.call(f"POST {path}", headers=sent, content=body)
                assert answer.slug in {"bad-request", "invalid"}

    with_api(test)
