"""User ids at Unkey: whatever the app's ids look like, they come back as they went, and no two become one."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.credits.unkey.user_ids import decode_user_id, encode_user_id
from gateway.errors import Invalid

UNKEYS_PATTERN = re.compile(r"[a-zA-Z0-9_.-]{1,255}")
VISIBLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
OUR_IDS = st.text(VISIBLE, min_size=1, max_size=128)


@pytest.mark.parametrize(
    ("user_id", "external_id"),
    [
        ("user_12-3.4", "user_12-3.4"),
        ("a" * 255, "a" * 255),
        ("a@b", "u8.YUBi"),
        ("auth0|12345", "u8.YXV0aDB8MTIzNDU"),
        ("u8.YUBi", "u8.dTguWVVCaQ"),
        ("u8.", "u8.dTgu"),
        ("U8.x", "U8.x"),
    ],
)
def test_an_id_is_spelled_so(user_id, external_id):
    assert encode_user_id(user_id) == external_id
    assert decode_user_id(external_id) == user_id


@given(OUR_IDS)
@example("u8.u8.u8.")
@example("ada@example.com\\")
def test_our_ids_come_back_and_unkey_takes_them(user_id):
    external_id = encode_user_id(user_id)
    assert UNKEYS_PATTERN.fullmatch(external_id)
    assert decode_user_id(external_id) == user_id


@given(OUR_IDS, OUR_IDS)
def test_no_two_of_our_ids_become_one(one, other):
    assert (encode_user_id(one) == encode_user_id(other)) == (one == other)


@pytest.mark.parametrize("user_id", ["", "a" * 256, "@" * 190])
def test_an_id_unkey_has_no_room_for_is_refused(user_id):
    with pytest.raises(Invalid):
        encode_user_id(user_id)


def test_the_longest_id_unkey_has_room_for_is_taken():
    assert decode_user_id(encode_user_id("@" * 189)) == "@" * 189


@given(st.text(max_size=256))
@example("\ud800")
@example("u8.\ud800")
@example("a\r\nX-Gateway-User: root")
def test_whatever_unkey_says_an_id_is_safe_as_a_header(external_id):
    user_id = decode_user_id(external_id)
    assert re.fullmatch(r"[!-~]*", user_id)
    assert bool(user_id) == bool(external_id)


@pytest.mark.parametrize(
    "external_id",
    [
        "u8.",  # of nothing
        "u8.YUBi=",  # padded
        "u8.YUBj!",  # not base64url
        "u8.YUC",  # bits that mean nothing
        "u8.dXNlcl8x",  # of "user_1", which needs no coding
        "u8.YSBi",  # of "a b"
        "u8.w6k",  # of "é"
        "u8._w",  # not UTF-8
        "u8." + "YUBi" * 64,  # longer than we would make
    ],
)
def test_a_foreign_id_that_looks_like_ours_stands_as_it_is(external_id):
    assert decode_user_id(external_id) == external_id


@given(st.text(max_size=256), st.text(max_size=256))
def test_foreign_ids_that_no_header_can_carry_stay_apart(one, other):
    hidden = [text for text in (one, other) if text and not re.fullmatch(r"[!-~]+", text)]
    assert len({decode_user_id(text) for text in hidden}) == len(set(hidden))
