"""What of a head reaches the upstream and the caller: never a key, a lie about who is calling, or a hop's own field."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest, InvalidKey, MissingKey
from gateway.proxy.headers import KNOWN_MAX, HeadReader, clean_response
from tests.proxy.harness import Proxy, request, response

OURS = ["x-gateway-user", "x-gateway-key-id", "x-gateway-cost", "x-request-id", "traceparent"]


def seen_by(upstream):
    (seen,) = upstream.seen
    return seen


def ask(account, upstream, *headers, target="/paid/ok"):
    """Call with these fields; what the upstream saw."""
    answer = account.ask(target, headers=headers)
    assert answer.status == 200, answer
    return seen_by(upstream)


def test_the_upstream_is_told_who_calls_what_it_costs_and_how_to_trace_it(account, upstream):
    answer = account.ask("/paid/ok")
    seen = seen_by(upstream)
    assert seen.header("x-gateway-user") == ["user_1"]
    assert seen.header("x-gateway-key-id") == [account.key_id]
    assert seen.header("x-gateway-cost") == ["5"]
    assert seen.header("x-request-id") == [answer.headers["x-request-id"]]
    assert len(seen.header("traceparent")) == 1


def test_the_key_never_leaves_the_gateway(account, upstream):
    for headers in ((b"X-API-Key: %b",), (b"Authorization: Bearer %b",), (b"authorization: bearer %b",)):
        fields = tuple(field % account.secret.encode() for field in headers)
        assert account.proxy.ask(request("/paid/ok", "GET", fields)).status == 200
    for seen in upstream.seen:
        assert account.secret.encode() not in seen.head
        assert not seen.header("authorization") + seen.header("x-api-key")
    assert len(upstream.seen) == 3


@pytest.mark.parametrize("field", [b"X-API-Key: %b", b"Authorization: Bearer %b", b"Authorization: Basic %b"])
def test_the_key_never_leaves_the_gateway_on_public_routes_either(account, upstream, field):
    field %= account.secret.encode()
    assert (
        account.proxy.ask(request("/public/ok", "GET", (field, b"X-API-Key: " + account.secret.encode()))).status == 200
    )
    assert account.secret.encode() not in seen_by(upstream).head


HOP_BY_HOP = (
    b"Connection: keep-alive",
    b"Keep-Alive: timeout=5",
    b"Proxy-Connection: keep-alive",
    b"Proxy-Authorization: Basic YTpi",
    b"Proxy-Authenticate: Basic",
    b"TE: trailers",
    b"Trailer: X-A",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQAAP__",
)


def test_a_hops_own_fields_end_here(account, upstream):
    seen = ask(account, upstream, *HOP_BY_HOP, b"X-Mine: a")
    for field in HOP_BY_HOP:
        assert not seen.header(field.partition(b":")[0].decode().lower())
    assert seen.header("x-mine") == ["a"]


def test_what_connection_names_ends_here_but_never_what_is_ours(account, upstream):
    named = ", ".join([*OURS, "x-forwarded-for", "x-forwarded-host", "x-api-key", "X-Mine", "close"]).encode()
    seen = ask(account, upstream, b"Connection: " + named, b"X-Mine: a", b"X-Other: b")
    assert not seen.header("x-mine")
    assert seen.header("x-other") == ["b"]
    for name in (*OURS, "x-forwarded-for", "x-forwarded-host", "host"):
        assert len(seen.header(name)) == 1, name
    assert seen.header("x-gateway-user") == ["user_1"]


def test_connection_in_several_lines_is_one_list(account, upstream):
    seen = ask(account, upstream, b"Connection: x-a", b"X-A: 1", b"Connection: x-b", b"X-B: 2", b"X-C: 3")
    assert [seen.header(name) for name in ("x-a", "x-b", "x-c")] == [[], [], ["3"]]


@pytest.mark.parametrize("name", [b"Host", b"content-length", b"Transfer-Encoding"])
def test_connection_may_not_name_what_frames_the_message(account, upstream, name):
    answer = account.ask("/paid/ok", headers=(b"Connection: close, " + name,))
    assert answer.status == 400
    assert upstream.seen == []
    assert account.spends == []


FORGED = [
    b"X-Gateway-User: root",
    b"x-gateway-user: root",
    b"X-GATEWAY-USER: root",
    b"X_Gateway_User: root",
    b"x_gateway_user: root",
    b"X-Gateway_User: root",
    b"X.Gateway.User: root",
    b"X-Gateway.User: root",
    b"X-Gateway-Key-Id: root",
    b"X-Gateway-Cost: 0",
    b"X-Gateway-Anything: root",
    b"X-Credits-Cost: 0",
    b"X_Credits_Cost: 0",
    b"X-User-Id: root",
    b"X-Consumer-Id: root",
    b"X-Real-IP: root",
    b"Forwarded: for=root",
    b"X-Forwarded: for=root",
    b"X_Forwarded_For: root",
    b"X-Request-Id: root",
    b"X_Request_Id: root",
    b"X-HTTP-Method-Override: DELETE",
    b"X-Original-URL: /root",
    b"X-Rewrite-URL: /root",
    b"Auth_orization: root",
]


@pytest.mark.parametrize("forged", FORGED, ids=lambda field: field.decode())
def test_nothing_a_caller_says_passes_for_the_gateways_word(account, upstream, forged):
    seen = ask(account, upstream, forged, forged, b"Connection: X-Gateway-User")
    lines = seen.head.split(b"\r\n")[1:]
    name = forged.partition(b":")[0].lower()
    assert not [line for line in lines if b"root" in line]
    assert sum(line.lower().startswith(name + b":") for line in lines) == (name.decode() in OURS)
    assert seen.header("x-gateway-user") == ["user_1"]
    assert seen.header("x-gateway-cost") == ["5"]
    assert seen.method == "GET"


@pytest.mark.parametrize("forged", FORGED, ids=lambda field: field.decode())
def test_nor_on_a_public_route(proxy, upstream, forged):
    assert proxy.ask(request("/public/ok", "GET", (forged,))).status == 200
    seen = seen_by(upstream)
    assert not [line for line in seen.head.split(b"\r\n")[1:] if b"root" in line]
    assert not seen.header("x-gateway-user")


def test_a_space_before_the_colon_is_refused(account, upstream):
    assert account.ask("/paid/ok", headers=(b"X-Gateway-User : root",)).status == 400
    assert upstream.seen == []


IMPOSSIBLE = [
    (),
    (b"X-API-Key:",),
    (b"X-API-Key: a b",),
    (b"X-API-Key: a%00b",),
    (b"X-API-Key: \xc3\xa9",),
    (b"X-API-Key: " + b"a" * 513,),
    (b"X-API-Key: " + b"a" * 8_000,),
    (b"Authorization: Bearer",),
    (b"Authorization: Bearer ",),
    (b"Authorization: gw_abc",),
    (b"Authorization: Basic YTpi",),
    (b"Authorization: Bearer a, Bearer b",),
    (b"X-API-Key: a", b"X-API-Key: b"),
    (b"X-API-Key: a", b"X-API-Key: a"),
    (b"X-API-Key: a", b"Authorization: Bearer b"),
    (b"Authorization: Bearer a", b"Authorization: Bearer b"),
    (b"X_API_Key: gw_abc",),
    (b"Cookie: x-api-key=gw_abc",),
]


class NoLookUps:
    """A provider that may not be asked."""

    async def hold(self, *_):
        raise AssertionError("the key was looked up")


@pytest.fixture(scope="module")
def unasked(targets, tmp_path_factory):
    with Proxy(tmp_path_factory.mktemp("unasked") / "gateway.db", targets, wrap=lambda _: NoLookUps()) as proxy:
        yield proxy


@pytest.mark.parametrize("headers", IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_an_impossible_key_is_refused_without_a_look_up(unasked, upstream, headers):
    upstream.seen.clear()
    answer = unasked.ask(request("/paid/ok", "GET", headers))
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert upstream.seen == []


def test_a_key_in_the_query_is_no_key(account, upstream):
    assert account.proxy.ask(request(f"/paid/ok?api_key={account.secret}&x-api-key={account.secret}")).status == 401
    assert upstream.seen == []


def forwarded(seen):
    return {name: seen.header(f"x-forwarded-{name}") for name in ("for", "proto", "host")}


SPOOFED = (b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil.test")


def test_a_stranger_is_not_believed_about_where_it_comes_from(account, upstream):
    assert forwarded(ask(account, upstream, *SPOOFED, *SPOOFED)) == {
        "for": ["127.0.0.1"],
        "proto": ["http"],
        "host": ["gateway.test"],
    }


def test_a_trusted_proxy_is_believed_and_appended_to(targets, upstream, tmp_path):
    upstream.seen.clear()
    with Proxy(tmp_path / "gateway.db", targets, trusted=("10.0.0.0/8", "127.0.0.1")) as proxy:
        assert forwarded(ask(proxy.account(), upstream, *SPOOFED)) == {
            "for": ["6.6.6.6, 127.0.0.1"],
            "proto": ["https"],
            "host": ["evil.test"],
        }


@pytest.mark.parametrize(
    ("trusted", "address", "believed"),
    [
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.0.0.1",), "10.0.0.2", False),
        (("fd00::/8",), "fd00::1", True),
        (("10.0.0.0/8",), "fd00::1", False),
        (("0.0.0.0/0",), "not-an-address", False),
    ],
)
def test_who_is_trusted(trusted, address, believed):
    for _ in range(2):
        head = HeadReader(trusted).read([(b"x-forwarded-for", b"6.6.6.6")], (address, 1), "http", keyed=False)
        chain = dict(head.headers)[b"x-forwarded-for"]
        assert chain == (b"6.6.6.6, " if believed else b"") + address.encode()


def test_names_that_callers_make_up_are_not_remembered_for_ever():
    reader = HeadReader()
    for number in range(KNOWN_MAX * 2):
        reader.read(
            [(b"x-%d" % number, b""), (b"x_%d" % number, b"")],
            (f"10.0.{number >> 8}.{number & 255}", 1),
            "http",
            keyed=False,
        )
    assert len(reader._treatments) <= KNOWN_MAX
    assert len(reader._trusted) <= KNOWN_MAX
    head = reader.read([(b"x_new", b"root"), (b"x-new", b"a")], None, "http", keyed=False)
    assert (b"x-new", b"a") in head.headers
    assert b"root" not in b"".join(value for _, value in head.headers)


def test_a_key_is_needed_where_the_route_is_keyed():
    reader = HeadReader()
    with pytest.raises(MissingKey):
        reader.read([], None, "http", keyed=True)
    with pytest.raises(InvalidKey):
        reader.read([(b"x-api-key", b"a"), (b"authorization", b"Bearer a")], None, "http", keyed=True)
    with pytest.raises(BadRequest):
        reader.read([(b"connection", b"host")], None, "http", keyed=False)


def test_a_trace_goes_on_through_the_gateway(account, upstream):
    trace = b"0af7651916cd43dd8448eb211c80319c"
    seen = ask(account, upstream, b"traceparent: 00-" + trace + b"-b7ad6b7169203331-01")
    (parent,) = seen.header("traceparent")
    assert parent.startswith(f"00-{trace.decode()}-")
    assert "b7ad6b7169203331" not in parent


# The answer's head.


def test_a_hops_own_fields_of_the_answer_end_here(account, script):
    script(
        "hops",
        response(
            b"Connection: keep-alive, X-Hop",
            b"Keep-Alive: timeout=5",
            b"X-Hop: a",
            b"Proxy-Authenticate: a",
            b"X-End: b",
        ),
    )
    headers = account.ask("/paid/hops").headers
    assert headers["x-end"] == "b"
    assert not {"x-hop", "keep-alive", "proxy-authenticate"} & headers.keys()


def test_an_upstream_cannot_remove_the_gateways_own_fields(account, script):
    script("hops", response(b"Connection: X-Request-Id, X-Credits-Cost, Content-Length", b"X-Request-Id: theirs"))
    answer = account.ask("/paid/hops")
    assert answer.credits == ("5", "95")
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.body == b"ok"


def test_a_redirect_is_passed_on_and_never_followed(account, upstream):
    answer = account.ask("/paid/302")
    assert (answer.status, answer.headers["location"]) == (302, "http://127.0.0.1:1/")
    assert len(upstream.seen) == 1


def test_fields_of_the_answer_keep_their_order_and_number():
    headers = [(b"set-cookie", b"a=1"), (b"x-a", b"1"), (b"set-cookie", b"b=2"), (b"x-a", b"2")]
    assert clean_response(headers, b"", [(b"x-own", b"1")]) == [*headers, (b"x-own", b"1")]


def read(headers, client="10.0.0.1", trusted=("10.0.0.0/8",)):
    return HeadReader(trusted).read([(b"x-api-key", b"gw_key"), *headers], (client, 1), "http", keyed=True)


def test_a_chain_in_several_lines_keeps_its_order_and_ends_with_our_peer():
    """HAProxy adds a line of its own behind the caller's: reversed, the forged address would be the believed one."""
    lines = [(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"203.0.113.9")]
    sent = dict(read(lines).headers)
    assert sent[b"x-forwarded-for"] == b"6.6.6.6, 203.0.113.9, 10.0.0.1"
    assert dict(read(lines, client="192.0.2.1").headers)[b"x-forwarded-for"] == b"192.0.2.1"


FORGED = [
    *(b"x~gateway~user", b"x!gateway!user", b"x.gateway.user", b"xgatewayuser", b"x_gateway_user"),
    *(b"x-forwarded-user", b"x-forwarded-client-cert", b"x-original-uri", b"x-remote-user", b"remote-user"),
    *(b"true-client-ip", b"cf-connecting-ip", b"x-client-ip"),
]


@pytest.mark.parametrize("name", FORGED)
def test_no_name_that_an_upstream_could_take_for_ours_is_forwarded(name):
    assert name not in dict(read([(name, b"admin")]).headers)


def test_made_up_names_cost_no_lasting_memory():
    reader = HeadReader()
    for number in range(2_000):
        name = b"x-" + b"a" * 8_000 + b"%d" % number
        reader.read([(b"x-api-key", b"k"), (name, b"")], None, "http", keyed=True)
    assert sum(map(len, reader._treatments)) < 100_000


@pytest.mark.parametrize(
    "where", ["/paid/ok?api_key={key}", "/paid/ok?a=b&token={key}&c", "cookie", "referer", "x-auth-token"]
)
def test_a_key_that_also_stands_where_it_would_be_forwarded_is_refused(account, upstream, where):
    target = where.format(key=account.secret) if "/" in where else "/paid/ok"
    headers = () if "/" in where else (f"{where}: session={account.secret}".encode(),)
    answer = account.ask(target, headers=headers)
    assert answer.status == 400
    assert account.secret not in str(answer)
    assert upstream.seen == []
    assert account.books == (100, 0)


def test_tracestate_goes_on_only_with_the_trace_it_belongs_to(account, upstream):
    valid = b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert ask(account, upstream, valid, b"tracestate: a=b").header("tracestate") == ["a=b"]


def test_tracestate_of_an_invalid_trace_is_dropped(account, upstream):
    assert ask(account, upstream, b"traceparent: nonsense", b"tracestate: a=b").header("tracestate") == []
