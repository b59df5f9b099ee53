"""Only spellings that everybody reads alike are routed, and those pass byte for byte."""

from __future__ import annotations

import posixpath
import time
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.proxy.paths import is_plain

PLAIN = [
    b"/",
    b"/a",
    b"/v1/personas",
    b"/v1/personas/",
    b"/a.b/..c/d../.e/...",
    b"/a-b_c~d!e$f&g'h(i)j*k+l,m=n:o@p",
    b"/caf%C3%A9",
    b"/%20/%7E/%41",
    b"/a%3Fb%23c",
    b"/%C0%AE",  # overlong UTF-8: no dot to whoever decodes UTF-8 as it is defined
    b"/A/a",
    b"/" + b"a" * 8_000,
]

AMBIGUOUS = [
    b"",
    b"a",
    b"*",
    b"//",
    b"//a",
    b"/a//b",
    b"/a//",
    b"/.",
    b"/..",
    b"/./a",
    b"/../a",
    b"/a/.",
    b"/a/..",
    b"/a/./b",
    b"/a/../b",
    b"/a/%2e/b",
    b"/a/%2E/b",
    b"/a/%2e%2e/b",
    b"/a/.%2e/b",
    b"/a/%2E./b",
    b"/a/%2e%2e%2fb",
    b"/a%2fb",
    b"/a%2Fb",
    b"/..%2fb",
    b"/a%5cb",
    b"/a%5C..%5Cb",
    b"/a\\b",
    b"/a/..;/b",
    b"/a;x=1/b",
    b"/a;",
    b"/a%3bb",
    b"/a%3Bb",
    b"/%252e%252e/a",
    b"/a%252fb",
    b"/a%25",
    b"/a%00",
    b"/%00",
    b"/a%0d%0ab",
    b"/a%0a",
    b"/a%1f",
    b"/a%7f",
    b"/a%7F",
    b"/a%zz",
    b"/a%",
    b"/a%2",
    b"/a%u002e",
    b"/a b",
    b"/a\tb",
    b"/a\r\nb",
    b"/a\n",
    b"/a\0b",
    b"/a?b",
    b"/a#b",
    b"/caf\xc3\xa9",
    b"/a\xff",
    b"/a|b",
    b"/a<b>",
    b'/a"b',
    b"/a{b}",
    b"/a[b]",
    b"/a^b`c",
    b"http://host/a",
    b"@evil/a",
    b" /a",
]


@pytest.mark.parametrize("path", PLAIN)
def test_a_plain_path_is_accepted(path):
    assert is_plain(path)


@pytest.mark.parametrize("path", AMBIGUOUS)
def test_a_path_that_could_be_read_in_two_ways_is_refused(path):
    assert not is_plain(path)


PIECES = st.sampled_from(
    [b"/", b".", b"..", b"a", b"personas", b"%2e", b"%2F", b"%5c", b"%25", b"%41", b"%c3%a9", b"%00", b";", b"\\", b"%"]
)


@settings(deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)), st.binary(max_size=30)))
def test_a_naive_upstream_sees_the_segments_that_were_priced(path):
    """Decoding first or splitting first, normalising or not: what is accepted has the same segments for everybody."""
    if not is_plain(path):
        return
    segments = [unquote_to_bytes(segment) for segment in path.split(b"/")]
    decoded = unquote_to_bytes(path)
    assert decoded.split(b"/") == segments
    assert unquote_to_bytes(decoded) == decoded, "decoding twice changes nothing"
    normal = posixpath.normpath(decoded)
    assert normal == decoded or (decoded.endswith(b"/") and normal == decoded.rstrip(b"/"))
    assert not {b"\\", b";", b"\0"} & {decoded[i : i + 1] for i in range(len(decoded))}


EVIL = [
    b"/" + b"a" * 8_191,
    b"/" + b"a/" * 4_095,
    b"/" + b"a" * 8_190 + b"\\",
    b"/" + b"a/" * 4_094 + b"//",
    b"/" + b"%41" * 2_730 + b"%",
    b"/" + b"a/" * 4_000 + b"%2e",
    b"/" * 8_192,
    b"/" + b"." * 8_191,
    b"/" + b"../" * 2_700,
    b"/" + b".a/" * 2_700 + b";",
]


@pytest.mark.parametrize("path", EVIL, ids=range(len(EVIL)))
def test_the_longest_path_is_judged_in_no_time(path):
    """Linear, whatever the spelling: 8 KB in well under 10 ms, and four times that in about four times as long."""

    def seconds(spelling: bytes) -> float:
        best = 1.0
        for _ in range(5):
            started = time.perf_counter()
            is_plain(spelling)
            best = min(best, time.perf_counter() - started)
        return best

    assert seconds(path) < 0.01
    assert seconds(path[:-1] * 4 + path[-1:]) < 0.04
