"""The short cut means what the strict reading means, whatever was read before."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.credits.unkey import known_verdicts
from gateway.credits.unkey.known_verdicts import KnownVerdicts
from gateway.credits.unkey.nonsense import Nonsense
from gateway.credits.unkey.strict_json import INTEGER_MAX
from gateway.credits.unkey.verdict import read_verdict

GOOD: dict[str, Any] = {
    "valid": True,
    "code": "VALID",
    "keyId": "key_1",
    "name": "Prod",
    "credits": 95,
    "enabled": True,
    "identity": {"id": "id_1", "externalId": "bob"},
}
LIMIT = {"limit": 1, "remaining": 0, "reset": 1893456000000}


def body(request_id: str = "req_1", *, spaces: bool = False, **changes: Any) -> bytes:
    data = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    document = {"meta": {"requestId": request_id}, "data": data}
    return json.dumps(document, separators=None if spaces else (",", ":")).encode()


def meaning(read: Any, text: bytes) -> Any:
    try:
        verdict = read(text)
    except Nonsense as error:
        return str(error)
    return verdict.code, verdict.key_id, verdict.credits, verdict.user_id, verdict.enabled, verdict.rate_limit


ESCAPED = body(name={"credits": 95, "x": 1}).replace(b'"credits":95,"en', b'"cr\\u0065dits":95,"en')
"""The key's credits under a name that is spelled otherwise."""
NO_META = body().replace(b'"meta":{"requestId":"req_1"}', b'"meta":{}')

GOOD_BODIES = st.builds(
    body,
    st.text("aZ09_-", max_size=8),
    spaces=st.booleans(),
    credits=st.sampled_from([0, 7, 95, INTEGER_MAX, None, -1, ...]),
    name=st.sampled_from(["Prod", 'a"b', "credits", "data", ...]),
    identity=st.sampled_from([GOOD["identity"], None, {"credits": 5, "externalId": "eve"}]),
    ratelimits=st.sampled_from([..., [], [LIMIT]]),
)
PIECES = st.sampled_from(
    [
        *(
            b'"',
            b"\\",
            b",",
            b":",
            b"{",
            b"}",
            b" ",
            b"\n",
            b"0",
            b"-",
            b"1e3",
            b"95",
            b"96",
            b"\xff",
            b"req_1",
            b"req_2",
        ),
        *(b'"credits":1,', b'"data"', b'"valid":false,', b'"requestId"', b'"requestId":"x",'),
    ]
)


@st.composite
def odd_bodies(draw: st.DrawFn) -> bytes:
    """A good one with a piece more, or with a piece in the place of another."""
    text = draw(GOOD_BODIES)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(PIECES) + text[at + draw(st.integers(0, 3)) :]


@given(st.lists(GOOD_BODIES | odd_bodies(), min_size=1, max_size=6))
@example([body(), body("req_2", credits=3), body("", credits=4)])
@example([body(name={"credits": 95, "x": 1}), body(name={"credits": 96, "x": 1})])
@example([ESCAPED, ESCAPED.replace(b'95,"x"', b'96,"x"')])
@example([body(name={"credits": 5, "x": 1}, credits=...)])
@example([body(), body().replace(b"req_1", b"req_\\q"), body().replace(b"req_1", b"req_\xff")])
@example([body(), body(credits=10**19)])
@example([NO_META, NO_META.replace(b'"meta"', b'"data"')])
@example([body(), body().replace(b":95,", b":095,"), body().replace(b":95,", b":9 5,"), body().replace(b":95,", b":,")])
@example([body(), body().replace(b"req_1", b'req_1","requestId":"x')])
@example([body(name="x").replace(b'"name":"x"', b'"name":"data"'), body(name="data")])
def test_a_body_means_the_same_whatever_was_read_before(bodies):
    known = KnownVerdicts()
    for text in bodies:
        assert meaning(known.read, text) == meaning(read_verdict, text)
        assert meaning(known.read, text) == meaning(read_verdict, text)


@pytest.fixture
def strictly_read(monkeypatch) -> list[bytes]:
    texts: list[bytes] = []

    def read(text: bytes) -> Any:
        texts.append(text)
        return read_verdict(text)

    monkeypatch.setattr(known_verdicts, "read_verdict", read)
    return texts


@pytest.mark.pure
@pytest.mark.parametrize("spaces", [False, True])
def test_what_differs_in_request_and_credits_alone_is_read_strictly_once(strictly_read, spaces):
    known = KnownVerdicts()
    for left in (95, 94, 0, 10**17):
        verdict = known.read(body(f"req_{left}", spaces=spaces, credits=left))
        assert (verdict.credits, verdict.key_id, verdict.user_id) == (left, "key_1", "bob")
    assert len(strictly_read) == 1
    known.read(body(spaces=spaces, name="Test"))
    assert len(strictly_read) == 2


@pytest.mark.pure
def test_what_changes_by_itself_is_never_known(strictly_read):
    known = KnownVerdicts()
    limited, long = body(ratelimits=[LIMIT]), body(name="x" * 2_048)
    for text in (limited, limited, body(credits=None), body(credits=None), long, long):
        known.read(text)
    assert len(strictly_read) == 6


@pytest.mark.pure
def test_what_is_known_is_bounded(monkeypatch):
    monkeypatch.setattr(known_verdicts, "KNOWN_MAX", 10)
    known = KnownVerdicts()
    for number in range(35):
        known.read(body(keyId=f"key_{number}"))
        assert len(known._known) <= 10
