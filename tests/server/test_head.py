"""What is a request head, and with which status all else is refused."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.server.head import read_head
from tests.server.harness import limits

LIMITS = limits()
GET = b"GET / HTTP/1.1\r\nHost: a"


def status_of(head, of=LIMITS):
    try:
        read_head(head, of, {})
    except GatewayError as error:
        return error.status
    return 200


def host(value):
    return b"GET / HTTP/1.1\r\nHost:" + value


def target(value):
    return b"GET " + value + b" HTTP/1.1\r\nHost: a"


def field(line):
    return GET + b"\r\n" + line


REFUSED = [
    (b"", 400),
    (b"GET", 400),
    (b"GET /", 400),
    (b"GET / ", 400),
    (b"GET / HTTP/0.9", 505),
    (b"GET / HTTP/1.2\r\nHost: a", 505),
    (b"GET / HTTP/2.0\r\nHost: a", 505),
    (b"GET / HTTP/9.9\r\nHost: a", 505),
    (b"GET / http/1.1\r\nHost: a", 400),
    (b"GET / HTTP/1.1 \r\nHost: a", 400),
    (b"GET / HTTP/1.10\r\nHost: a", 400),
    (b"GET / HTTP/01.1\r\nHost: a", 400),
    (b"GET  / HTTP/1.1\r\nHost: a", 400),
    (b" GET / HTTP/1.1\r\nHost: a", 400),
    (b"GET\t/ HTTP/1.1\r\nHost: a", 400),
    (b"PRI * HTTP/2.0", 505),
    (b"get / HTTP/1.1\r\nHost: a", 501),
    (b"BREW / HTTP/1.1\r\nHost: a", 501),
    (b"G@T / HTTP/1.1\r\nHost: a", 400),
    (b"G(T / HTTP/1.1\r\nHost: a", 400),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a", 405),
    (b"TRACE / HTTP/1.1\r\nHost: a", 405),
    (b"QUERY / HTTP/1.1\r\nHost: a", 405),
    # Host
    (b"GET / HTTP/1.1", 400),
    (GET + b"\r\nHost: a", 400),
    (GET + b"\r\nhost: b", 400),
    (host(b""), 400),
    (host(b" "), 400),
    (host(b" a b"), 400),
    (host(b" a,b"), 400),
    (host(b" a/b"), 400),
    (host(b" a?b"), 400),
    (host(b" u@a"), 400),
    (host(b" :80"), 400),
    (host(b" a:b"), 400),
    (host(b" a:+1"), 400),
    (host(b" a:65536"), 400),
    (host(b" a:000080"), 400),
    (host(b" a:80:80"), 400),
    (host(b" a%00b"), 400),
    (host(b" \xc3\xa9"), 400),
    (host(b" [::1"), 400),
    (host(b" []"), 400),
    (host(b" [::1%25eth0]"), 400),
    (host(b" [::1]80"), 400),
    (host(b" [fe80::g]"), 400),
    # lines
    (field(b" folded: 1"), 400),
    (field(b"\tfolded"), 400),
    (field(b"X-A : 1"), 400),
    (field(b"X-A\t: 1"), 400),
    (field(b": 1"), 400),
    (field(b"no colon"), 400),
    (field(b"Host"), 400),
    (field(b"X(A): 1"), 400),
    (field(b"X-\xe9: 1"), 400),
    (field(b"X-A: 1\n\tB: 2"), 400),
    (field(b"X-A: 1\nX-B: 2"), 400),
    (field(b"X-A: 1\rX-B: 2"), 400),
    (field(b"X-A: 1\r"), 400),
    (field(b"X-A: a\0b"), 400),
    (field(b"X-A: a\x0bb"), 400),
    (field(b"X-A: a\x7fb"), 400),
    # framing
    (field(b"Content-Length: +1"), 400),
    (field(b"Content-Length: -1"), 400),
    (field(b"Content-Length: 0x1"), 400),
    (field(b"Content-Length: 1_0"), 400),
    (field(b"Content-Length: 1 0"), 400),
    (field(b"Content-Length: 1,1"), 400),
    (field(b"Content-Length: 1;"), 400),
    (field(b"Content-Length:"), 400),
    (field(b"Content-Length: \xb2"), 400),
    (field(b"Content-Length: 9223372036854775808"), 400),
    (field(b"Content-Length: 1\r\nContent-Length: 1"), 400),
    (field(b"Content-Length: 1\r\ncontent-length: 2"), 400),
    (field(b"Content-Length: 1\r\nTransfer-Encoding: chunked"), 400),
    (field(b"Transfer-Encoding: chunked\r\nContent-Length: 0"), 400),
    (field(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
    (field(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"), 400),
    (field(b"Transfer-Encoding: chunked, chunked"), 400),
    (field(b"Transfer-Encoding: chunked, gzip"), 400),
    (field(b"Transfer-Encoding: chunked, identity"), 400),
    (field(b"Transfer-Encoding: gzip, chunked"), 501),
    (field(b"Transfer-Encoding: gzip"), 501),
    (field(b"Transfer-Encoding: identity"), 501),
    (field(b"Transfer-Encoding: xchunked"), 501),
    (field(b'Transfer-Encoding: "chunked"'), 501),
    (field(b"Transfer-Encoding: chunked;q=1"), 501),
    (field(b"Transfer-Encoding: chun\xeb\xe4ked"), 501),
    (field(b"Transfer-Encoding:\x0bchunked"), 400),
    (field(b"Transfer-Encoding:\x0cchunked"), 400),
    (field(b"Transfer-Encoding: \xa0chunked"), 501),
    (field(b"Transfer-Encoding:"), 501),
    (field(b"Transfer-Encoding : chunked"), 400),
    (field(b"Transfer-Encoding:\r\n chunked"), 400),
    (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", 400),
    (field(b"Expect: 100-continue, x"), 417),
    (field(b"Expect: 200-ok"), 417),
    (field(b"Expect: 100-continue\r\nExpect: 100-continue"), 400),
    # targets
    (target(b"*"), 400),
    (b"OPTIONS * HTTP/1.1\r\nHost: a", 400),
    (target(b"a:80"), 400),
    (target(b"a"), 400),
    (target(b"@evil"), 400),
    (target(b"?x"), 400),
    (target(b"/#a"), 400),
    (target(b"/?x#a"), 400),
    (target(b"/a\\b"), 400),
    (target(b"/?a\\b"), 400),
    (target(b"/\xc3\xa9"), 400),
    (target(b"/?\xe9"), 400),
    (target(b"/<"), 400),
    (target(b'/"'), 400),
    (target(b"/{"), 400),
    (target(b"/\x01"), 400),
    (target(b"/\x7f"), 400),
    (target(b"http:///x"), 400),
    (target(b"http://u@a/x"), 400),
    (target(b"http://u:p@a/x"), 400),
    (target(b"http://a:99999/x"), 400),
    (target(b"http://a b/x"), 400),
    (target(b"http://a#x"), 400),
    (target(b"http://a/#x"), 400),
    (target(b"http:/a"), 400),
    (target(b"https:a"), 400),
    (target(b"ftp://a/x"), 400),
    (target(b"ws://a/x"), 400),
]


@pytest.mark.parametrize(("head", "status"), REFUSED, ids=[repr(head)[2:60] for head, _ in REFUSED])
def test_a_faulty_head_is_refused(head, status):
    assert status_of(head) == status


def test_limits_have_their_own_statuses():
    small = limits(uri_max_bytes=10, head_max_fields=3)
    assert status_of(target(b"/" + b"a" * 9), small) == 200
    assert status_of(target(b"/" + b"a" * 10), small) == 414
    assert status_of(GET + b"\r\nX-A: 1" * 2, small) == 200
    assert status_of(GET + b"\r\nX-A: 1" * 3, small) == 431


def test_a_plain_head_is_read_byte_for_byte():
    head = (
        b"GET /%7Euser/a%2fb//..;x?q=%00&f[a]={1|2}^? HTTP/1.1\r\nHOST: a.example:8080\r\nx-A:  \t v w\xff \t\r\nX-A:"
    )
    method, path, query, http_1_1, headers, framing = read_head(head, LIMITS, {})
    assert (method, path, query, http_1_1) == ("GET", b"/%7Euser/a%2fb//..;x", b"q=%00&f[a]={1|2}^?", True)
    assert headers == [(b"host", b"a.example:8080"), (b"x-a", b"v w\xff"), (b"x-a", b"")]
    assert (framing.content_length, framing.chunked, framing.keep_alive, framing.tunnel) == (0, False, True, False)


@pytest.mark.parametrize("value", [b"a", b"a.b-c_d~", b"1.2.3.4", b"a:", b"a:0", b"a:65535", b"[::1]", b"[::1]:80"])
def test_a_valid_host_is_taken(value):
    assert status_of(host(b" " + value)) == 200


@pytest.mark.parametrize(
    ("target_", "authority", "path", "query"),
    [
        (b"http://evil.example/x?y", b"evil.example", b"/x", b"y"),
        (b"HTTPS://b:1/", b"b:1", b"/", b""),
        (b"http://b", b"b", b"/", b""),
        (b"http://b?y=/z", b"b", b"/", b"y=/z"),
        (b"http://[::1]:2//x", b"[::1]:2", b"//x", b""),
    ],
)
def test_the_authority_of_an_absolute_target_replaces_host(target_, authority, path, query):
    head = b"GET " + target_ + b" HTTP/1.1\r\nX-A: 1\r\nHost: a"
    _, got_path, got_query, _, headers, _ = read_head(head, LIMITS, {})
    assert (got_path, got_query) == (path, query)
    assert headers == [(b"host", authority), (b"x-a", b"1")]


def test_an_absolute_target_does_not_excuse_a_missing_or_doubled_host():
    assert status_of(b"GET http://b/ HTTP/1.1") == 400
    assert status_of(b"GET http://b/ HTTP/1.1\r\nHost: b\r\nHost: b") == 400


@pytest.mark.parametrize(
    ("fields", "http_1_1", "keep_alive"),
    [
        (b"", True, True),
        (b"Connection: keep-alive", True, True),
        (b"Connection: x, Close", True, False),
        (b"Connection: x\r\nConnection: close", True, False),
        (b"Connection: keep-alive", False, False),
        (b"", False, False),
    ],
)
def test_keep_alive_is_what_the_version_and_connection_say(fields, http_1_1, keep_alive):
    version = b"1.1" if http_1_1 else b"1.0"
    head = b"GET / HTTP/" + version + b"\r\nHost: a" + (b"\r\n" + fields if fields else b"")
    assert read_head(head, LIMITS, {})[5].keep_alive is keep_alive


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
)


@pytest.mark.parametrize(
    ("head", "offered"),
    [
        (UPGRADE, True),
        (UPGRADE.replace(b"websocket", b"WebSocket"), True),
        (UPGRADE.replace(b": 13", b": 12"), False),
        (UPGRADE + b"\r\nSec-WebSocket-Version: 12", False),
        (UPGRADE.replace(b"websocket", b"h2c"), False),
        (UPGRADE.replace(b"websocket", b"websocket, h2c"), False),
        (UPGRADE.replace(b"GET", b"POST"), False),
        (UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (UPGRADE + b"\r\nContent-Length: 1", False),
        (UPGRADE + b"\r\nTransfer-Encoding: chunked", False),
        (UPGRADE.replace(b"Upgrade\r\n", b"close\r\n"), False),
    ],
)
def test_only_a_right_websocket_upgrade_is_offered_a_tunnel(head, offered):
    framing = read_head(head, LIMITS, {})[5]
    assert framing.tunnel is offered
    assert framing.keep_alive is False


def test_known_lines_change_nothing_and_are_bounded():
    known = {}
    for number in range(200):
        head = GET + b"\r\nX-A:  b \r\nContent-Length: %d\r\nX-%d: c\r\nX-Long: " % (number, number) + b"d" * 1000
        assert read_head(head, LIMITS, known)[4] == read_head(head, LIMITS, {})[4]
        assert read_head(head, LIMITS, known)[5].content_length == number
        assert sum(map(len, known)) < 10_000
    assert status_of(GET + b"\r\nContent-Length: 199\r\nContent-Length: 199") == 400
    with pytest.raises(GatewayError):
        read_head(GET + b"\r\nContent-Length: 199\r\nContent-Length: 199", LIMITS, known)


class Llhttp:
    """What llhttp makes of a head."""

    def __init__(self, head):
        self.headers = []
        self.complete = False
        self.target = b""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(head + b"\r\n\r\n")
        except httptools.HttpParserUpgrade:
            pass
        self.method = parser.get_method().decode()
        self.version = parser.get_http_version()

    def on_url(self, url):
        self.target += url

    def on_header(self, name, value):
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self):
        self.complete = True


PLAUSIBLE_LINES = (
    b"Host: a|X-A: 1|Content-Length: 5|Content-Length: 05|Transfer-Encoding: chunked|Connection: close|X-Y:|A b:c"
    b"|Upgrade: h2c|Connection: upgrade| x|Expect: 100-continue|X: \x80\xff"
).split(b"|")
lines = st.lists(st.sampled_from(PLAUSIBLE_LINES), max_size=5)
first_lines = st.sampled_from(
    [b"GET / HTTP/1.1", b"POST /a?b=c HTTP/1.1", b"GET / HTTP/1.0", b"PUT http://b:1/c HTTP/1.1", b"HEAD //x HTTP/1.1"]
)
edits = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2), st.binary(min_size=1, max_size=2)), max_size=2)


@given(first=first_lines, rest=lines, edits=edits)
def test_what_is_accepted_means_the_same_to_llhttp(first, rest, edits):
    head = b"\r\n".join([first, b"Host: h", *rest])
    for position, removed, added in edits:
        at = position % (len(head) + 1)
        head = head[:at] + added + head[at + removed :]
    if b"\r\n\r\n" in head or head.endswith(b"\r\n") or status_of(head) != 200:
        return
    method, path, query, http_1_1, headers, _ = read_head(head, LIMITS, {})
    other = Llhttp(head)
    assert other.complete
    assert (method, "1.1" if http_1_1 else "1.0") == (other.method, other.version)
    assert other.target.endswith(path + (b"?" + query if query or other.target.endswith(b"?") else b""))
    assert {h for h in headers if h[0] != b"host"} == {h for h in other.headers if h[0] != b"host"}
