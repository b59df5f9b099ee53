"""Unkey's verdicts, and that nothing else is taken for one."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credits.provider import NO_POLICY
from gateway.credits.unkey.errors import UnkeyUnavailable
from gateway.credits.unkey.nonsense import Nonsense
from gateway.credits.unkey.strict_json import INTEGER_MAX
from gateway.credits.unkey.verdict import Verdict, read_verdict
from gateway.wire import Answer
from tests.credits.unkey.wires import SECRET, Unkey, run, said

GOOD: dict[str, Any] = {
    "valid": True,
    "code": "VALID",
    "keyId": "key_1",
    "name": "Prod: \u00e9",
    "meta": {"plan": {"tiers": [1, 2.5, None]}},
    "expires": 1893456000000,
    "credits": 95,
    "enabled": True,
    "permissions": ["a.b"],
    "roles": [],
    "identity": {"id": "id_1", "externalId": "u8.YUBi", "ratelimits": []},
    "keyspaceId": "ks_1",
}
LIMIT = {"id": "rl_1", "name": "gateway:/v1/x", "limit": 10, "duration": 60000, "remaining": 0, "exceeded": True}


def read(data: Any) -> Verdict:
    return read_verdict(said(data).body)


def but(**changes: Any) -> dict[str, Any]:
    """The good verdict with changes; `...` takes a member away."""
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}


def test_a_good_verdict_is_read():
    verdict = read(GOOD)
    assert (verdict.code, verdict.is_valid, verdict.key_id) == ("VALID", True, "key_1")
    assert (verdict.credits, verdict.user_id, verdict.enabled, verdict.rate_limit) == (95, "a@b", True, None)


def test_no_credits_are_unlimited_credits_and_none_left_are_none():
    assert read(but(credits=...)).credits is None
    assert read(but(credits=None)).credits is None
    assert read(but(credits=0)).credits == 0
    assert read(but(credits=INTEGER_MAX)).credits == INTEGER_MAX


def test_a_key_may_have_no_owner():
    for identity in (..., None, {}, {"id": "id_1"}, {"externalId": ""}):
        assert read(but(identity=identity)).user_id == ""


@pytest.mark.parametrize(
    "code", ["NOT_FOUND", "DISABLED", "EXPIRED", "FORBIDDEN", "USAGE_EXCEEDED", "SOMETHING_NEW", "valid", "Valid"]
)
def test_any_other_code_is_kept_and_not_valid(code):
    verdict = read({"valid": False, "code": code})
    assert (verdict.code, verdict.is_valid, verdict.key_id, verdict.credits) == (code, False, "", None)
    verdict = read(but(valid=False, code=code, enabled=False))
    assert (verdict.is_valid, verdict.key_id, verdict.credits, verdict.enabled) == (False, "key_1", 95, False)


def test_the_limit_that_was_exceeded_is_told_with_the_time_of_its_reset():
    other = {**LIMIT, "exceeded": False, "limit": 5, "remaining": 3}
    verdict = read(but(valid=False, code="RATE_LIMITED", ratelimits=[other, {**LIMIT, "reset": 1893456000000}]))
    assert verdict.rate_limit == (10, 0, 1893456000000)
    assert read(but(ratelimits=[{**other, "reset": 1893456000000}])).rate_limit == (5, 3, 1893456000000)
    assert read(but(ratelimits=[])).rate_limit is None


@pytest.mark.parametrize("reset", [1, 60_000, 2_592_000_000])
def test_a_reset_told_as_a_duration_is_a_time_too(reset):
    now_ms = time.time_ns() // 1_000_000
    rate_limit = read(but(ratelimits=[{**LIMIT, "reset": reset}])).rate_limit
    assert rate_limit is not None
    assert 0 <= rate_limit[2] - reset - now_ms < 60_000


def raw(text: str | bytes) -> bytes:
    """The text as the whole body; `@` stands for the good verdict's inside."""
    inside = json.dumps(GOOD)[1:-1].encode()
    return (text.encode() if isinstance(text, str) else text).replace(b"@", inside)


NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "blank": b" ",
    "html": b"<html>502 Bad Gateway</html>",
    "text": b"VALID",
    "null": b"null",
    "true": b"true",
    "a number": b"1",
    "a list": raw("[{@}]"),
    "an empty object": b"{}",
    "data null": raw('{"data":null}'),
    "data a list": raw('{"data":[{@}]}'),
    "data a text": raw('{"data":"VALID"}'),
    "data empty": raw('{"data":{}}'),
    "no envelope": raw("{@}"),
    "cut": raw('{"data":{@}'),
    "one brace more": raw('{"data":{@}}}'),
    "two documents": raw('{"data":{@}}{"data":{@}}'),
    "a tail": raw('{"data":{@}} x'),
    "a NUL behind": raw('{"data":{@}}\0'),
    "byte order mark": raw(b'\xef\xbb\xbf{"data":{@}}'),
    "UTF-16": json.dumps({"data": GOOD}).encode("utf-16"),
    "not UTF-8": raw(b'{"data":{@,"x":"\xff"}}'),
    "overlong UTF-8": raw(b'{"data":{@,"x":"\xc0\x80"}}'),
    "control in a text": raw('{"data":{@,"x":"a\nb"}}'),
    "NaN": raw('{"data":{@,"x":NaN}}'),
    "infinity": raw('{"data":{@,"x":-Infinity}}'),
    "single quotes": raw("{'data':{@}}"),
    "a comment": raw('{"data":{@}/**/}'),
    "data twice": raw('{"data":{@},"data":{@}}'),
    "valid twice": raw('{"data":{"valid":true,@}}'),
    "a name twice, deep inside": raw('{"data":{@,"x":[{"a":1,"a":1}]}}'),
    "deep lists": raw('{"data":{@,"x":' + "[" * 100_000 + "]" * 100_000 + "}}"),
    "deep objects": raw('{"data":{@,"x":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}}"),
    "unending lists": b"[" * 1_000_000,
    "a number of 5000 digits": raw('{"data":{@,"x":' + "9" * 5000 + "}}"),
    **{
        name: said(data).body
        for name, data in {
            "valid missing": but(valid=...),
            "valid null": but(valid=None),
            "valid a text": but(valid="true"),
            "valid a number": but(valid=1),
            "valid false, code VALID": but(valid=False),
            "valid true, code NOT_FOUND": but(code="NOT_FOUND"),
            "valid true, code unknown": but(code="SOMETHING_NEW"),
            "code missing": but(code=...),
            "code null": but(code=None),
            "code a number": but(code=1),
            "code a list": but(code=["VALID"]),
            "code empty": but(code="", valid=False),
            "code too long": but(code="A" * 65, valid=False),
            "code with a line break": but(code="NOT\nFOUND", valid=False),
            "code not ASCII": but(code="NÖT_FOUND", valid=False),
            "keyId missing": but(keyId=...),
            "keyId null": but(keyId=None),
            "keyId empty": but(keyId=""),
            "keyId a number": but(keyId=1),
            "keyId too long": but(keyId="k" * 256),
            "keyId with a line break": but(keyId="key_1\r\nX: y"),
            "keyId with a space": but(keyId="key 1"),
            "keyId not ASCII": but(keyId="kéy_1"),
            "keyId half a surrogate pair": but(keyId="\ud800"),
            "credits negative": but(credits=-2),
            "credits a fraction": but(credits=1.5),
            "credits a whole fraction": but(credits=1.0),
            "credits a text": but(credits="1"),
            "credits true": but(credits=True),
            "credits an object": but(credits={"remaining": 1}),
            "credits over 64 bits": but(credits=INTEGER_MAX + 1),
            "credits gigantic": but(credits=10**4000),
            "enabled a text": but(enabled="yes"),
            "enabled null": but(enabled=None),
            "disabled and valid": but(enabled=False),
            "identity a text": but(identity="user_1"),
            "identity a list": but(identity=[]),
            "externalId a number": but(identity={"externalId": 1}),
            "externalId too long": but(identity={"externalId": "a" * 257}),
            "ratelimits an object": but(ratelimits={}),
            "ratelimits of texts": but(ratelimits=["a"]),
            "limit a text": but(ratelimits=[{**LIMIT, "limit": "10"}]),
            "remaining negative": but(ratelimits=[{**LIMIT, "remaining": -1}]),
            "reset a fraction": but(ratelimits=[{**LIMIT, "reset": 0.5}]),
        }.items()
    },
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_no_verdict_and_its_credits_are_in_doubt(name):
    unkey = Unkey()
    unkey.says(Answer(200, None, NONSENSE[name]))
    with pytest.raises(UnkeyUnavailable) as caught:
        run(unkey.client.verify(SECRET, 5, NO_POLICY, "/v1/x", "req_1"))
    assert caught.value.possibly_executed
    assert len(unkey.verify_wire.sent) == 1
    assert len(caught.value.cause) < 200
    assert "key_1" not in caught.value.cause


@pytest.mark.parametrize("space", ["", " ", "\n", "\r\n\t "])
def test_white_space_around_a_verdict_means_nothing(space):
    assert read_verdict(raw(f'{space}{{"data":{{@}}}}{space}')).is_valid


def test_a_verdict_is_shown_without_its_owner():
    assert repr(read(GOOD)) == "Verdict('VALID', 'key_1', credits=95)"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from([*GOOD, "ratelimits"])


def check_read(body: bytes) -> None:
    """A verdict that means something, or Nonsense, and nothing else."""
    try:
        verdict = read_verdict(body)
    except Nonsense:
        return
    assert verdict.is_valid == (verdict.code == "VALID")
    assert verdict.key_id or not verdict.is_valid
    assert verdict.credits is None or (type(verdict.credits) is int and verdict.credits >= 0)
    for text in (verdict.code, verdict.key_id, verdict.user_id):
        assert text.isascii()
        assert text.isprintable()


@given(st.binary(max_size=200))
def test_whatever_bytes_come_they_are_read_or_refused(body):
    check_read(body)


@given(JSON_VALUES)
def test_whatever_document_comes_it_is_read_or_refused(document):
    check_read(json.dumps(document).encode())
    check_read(said(document).body)


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=3), st.sets(NAMES, max_size=3))
def test_whatever_is_wrong_in_a_verdict_it_is_read_or_refused(changes, gone):
    data = {**GOOD, **changes}
    check_read(said({name: value for name, value in data.items() if name not in gone}).body)


@given(st.integers(0, len(said(GOOD).body)), st.integers(0, 40), st.binary(max_size=10))
def test_wherever_a_verdict_is_damaged_it_is_read_or_refused(start, length, patch):
    body = said(GOOD).body
    check_read(body[:start] + patch + body[start + length :])


def test_a_key_that_has_just_become_unlimited_is_unlimited_and_not_nonsense():
    body = b'{"data":{"valid":true,"code":"VALID","keyId":"key_1","credits":-1}}'
    assert read_verdict(body).credits is None
