"""What of a request's head goes upstream, and what of the answer's head goes back.

One pass over the fields does it all: the API key is taken out, hop-by-hop fields go (RFC 9110 section 7.6.1), whatever
could pass for the gateway's own word goes, and only then the gateway's own fields are added: so nothing a caller sends,
not even in Connection, can remove or replace them (CVE-2022-31813, CVE-2024-45410).
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Final

from gateway.errors import BadRequest, BodyTooLarge, InvalidKey, MissingKey
from gateway.upstreams.transport import Headers

HOP_BY_HOP = (
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"http2-settings",
)
IDENTITY = (
    *(b"x-user-id", b"x-consumer-id", b"x-remaining-credits", b"forwarded", b"x-forwarded", b"remote-user"),
    *(b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"cf-connecting-ip", b"xgatewayuser"),
)
"""Names that upstreams commonly believe. The gateway alone says who is calling, and from where."""
IDENTITY_PREFIXES = (b"x-gateway-", b"x-credits-", b"x-forwarded-", b"x-original-", b"x-remote-")
NAME_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789-"
"""What a forwarded name may be made of. Other tokens are read as `-` by CGI-like servers, which turn all that is not a
letter or digit into `_`: X_Gateway_User and X~Gateway~User would both be believed (CVE-2025-64484)."""
OVERRIDES = (b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-original-url", b"x-rewrite-url")
"""Fields with which a caller would make the upstream see another call than the one that was priced."""

PERSISTENCE = frozenset({b"keep-alive", b"close"})
"""What Connection mostly says. Neither names a field that is there."""

HTTP = (b"x-forwarded-proto", b"http")
HTTPS = (b"x-forwarded-proto", b"https")

KNOWN_MAX = 4_096
KNOWN_NAME_MAX_BYTES = 64
"""How many names of which length have their treatment remembered: callers choose names, so there must be bounds."""

API_KEY_MAX_BYTES = 512
SPACE: Final = 0x20
PERCENT: Final = 0x25
"""As numbers: of `b"%" in value` Python would first try to make one, in vain, which takes ten times as long."""


class RequestHead:
    """A request's head, read once: the key, the framing, and the fields that go upstream."""

    __slots__ = (
        "api_key",
        "connection",
        "content_length",
        "expects_continue",
        "forwarded",
        "has_body",
        "headers",
        "host",
        "keyed",
        "traceparent",
        "tracestate",
    )

    def __init__(self, *, keyed: bool) -> None:
        self.keyed = keyed
        self.headers: Headers = []
        self.forwarded: Headers = []
        self.api_key = b""
        self.host = b""
        self.connection = b""
        self.traceparent: bytes | None = None
        self.tracestate: Headers = []
        self.content_length: int | None = None
        self.has_body = False
        self.expects_continue = False


Treatment = Callable[[RequestHead, bytes, bytes], None]
"""What is done with a field that does not simply go upstream, given its name and value."""


class HeadReader:
    """Reads heads for all routes; knows which peers are proxies of ours whose X-Forwarded-* may be believed."""

    def __init__(self, trusted_proxies: tuple[str, ...] = ()) -> None:
        self._networks = [ip_network(entry, strict=False) for entry in trusted_proxies]
        self._trusted: dict[str, bool] = {}
        self._treatments: dict[bytes, Treatment | None] = dict.fromkeys((*HOP_BY_HOP, *IDENTITY, *OVERRIDES), _drop)
        self._treatments.update(READ)

    def read(self, headers: Headers, client: tuple[str, int] | None, scheme: str, *, keyed: bool) -> RequestHead:
        """Take the head apart. `keyed` says that the route needs a key.

        Raises MissingKey, InvalidKey (two keys, or one that is impossible) or BadRequest.
        """
        head = RequestHead(keyed=keyed)
        kept = head.headers
        treatments = self._treatments
        for field in headers:
            name = field[0]
            try:
                treatment = treatments[name]
            except KeyError:
                treatment = self._learn(name)
            if treatment is None:
                kept.append(field)
            else:
                treatment(head, name, field[1])
        if keyed:
            _check_key(head)
        if head.connection and head.connection.lower() not in PERSISTENCE:
            _drop_named(head, head.connection)
        self._add_forwarded(head, client, scheme)
        return head

    def _learn(self, name: bytes) -> Treatment | None:
        forged = bool(name.translate(None, NAME_BYTES)) or name.startswith(IDENTITY_PREFIXES)
        treatment = _drop if forged else None
        if len(self._treatments) < KNOWN_MAX and len(name) <= KNOWN_NAME_MAX_BYTES:
            self._treatments[name] = treatment
        return treatment

    def _add_forwarded(self, head: RequestHead, client: tuple[str, int] | None, scheme: str) -> None:
        address = client[0] if client else ""
        chain = peer = address.encode("ascii")
        proto = HTTPS if scheme == "https" else HTTP
        host = head.host
        if head.forwarded and self._is_trusted(address):
            chain = b", ".join([*(value for name, value in head.forwarded if name == b"x-forwarded-for"), peer])
            for name, value in head.forwarded:
                if name == b"x-forwarded-for":
                    continue
                if name == b"x-forwarded-proto":
                    proto = (name, value)
                else:
                    host = value
        head.headers += ((b"x-forwarded-for", chain), proto, (b"x-forwarded-host", host))

    def address_of(self, head: RequestHead, client: tuple[str, int] | None) -> str:
        """Whose call it is: the last address of the chain that is not a proxy of ours. What that one says of others
        before it is hearsay."""
        address = client[0] if client else ""
        chain = [entry for name, value in head.forwarded if name == b"x-forwarded-for" for entry in value.split(b",")]
        while chain and self._is_trusted(address):
            said = _without_port(chain.pop().strip().decode("latin-1"))
            try:
                ip_address(said)
            except ValueError:
                break
            address = said
        return address

    def _is_trusted(self, address: str) -> bool:
        known = self._trusted.get(address)
        if known is None:
            try:
                parsed = ip_address(address)
            except ValueError:
                return False
            known = any(parsed in network for network in self._networks)
            if len(self._trusted) < KNOWN_MAX:
                self._trusted[address] = known
        return known


def _without_port(entry: str) -> str:
    """Of 192.0.2.1:4711 and [2001:db8::1]:4711, as some proxies write them."""
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


def _drop(head: RequestHead, name: bytes, value: bytes) -> None:
    pass


def _read_host(head: RequestHead, _name: bytes, value: bytes) -> None:
    head.host = value


def _read_api_key(head: RequestHead, _name: bytes, value: bytes) -> None:
    if not head.keyed:
        return  # Dropped on a public route all the same: it may be a key of ours (I7).
    if head.api_key:
        raise InvalidKey("The request has more than one API key.")
    # RFC 6750 section 2.1: a token is visible ASCII. Anything else is refused without a look-up.
    if not value or len(value) > API_KEY_MAX_BYTES or not value.isascii() or SPACE in value or PERCENT in value:
        raise InvalidKey("This can't be an API key.")
    head.api_key = value


def _read_authorization(head: RequestHead, name: bytes, value: bytes) -> None:
    scheme, _, token = value.partition(b" ")
    if head.keyed and scheme.lower() != b"bearer":
        raise InvalidKey("Send the key as `Authorization: Bearer <key>` or `X-API-Key: <key>`.")
    _read_api_key(head, name, token)


def _read_content_length(head: RequestHead, _name: bytes, value: bytes) -> None:
    head.content_length = int(value)
    head.has_body = head.content_length > 0


def _read_transfer_encoding(head: RequestHead, _name: bytes, _value: bytes) -> None:
    head.has_body = True


def _read_connection(head: RequestHead, _name: bytes, value: bytes) -> None:
    head.connection = head.connection + b"," + value if head.connection else value


def _read_expect(head: RequestHead, _name: bytes, _value: bytes) -> None:
    head.expects_continue = True


def _read_traceparent(head: RequestHead, _name: bytes, value: bytes) -> None:
    # Two of them are none (W3C Trace Context).
    head.traceparent = value if head.traceparent is None else b""


def _read_tracestate(head: RequestHead, name: bytes, value: bytes) -> None:
    head.tracestate.append((name, value))


def _read_forwarded(head: RequestHead, name: bytes, value: bytes) -> None:
    head.forwarded.append((name, value))


READ: dict[bytes, Treatment] = {
    b"authorization": _read_authorization,
    b"connection": _read_connection,
    b"content-length": _read_content_length,
    b"expect": _read_expect,
    b"host": _read_host,
    b"traceparent": _read_traceparent,
    b"tracestate": _read_tracestate,
    b"transfer-encoding": _read_transfer_encoding,
    b"x-api-key": _read_api_key,
    b"x-forwarded-for": _read_forwarded,
    b"x-forwarded-host": _read_forwarded,
    b"x-forwarded-proto": _read_forwarded,
    b"x-request-id": _drop,
}
"""Fields that are read, or replaced by the gateway's own."""


def _check_key(head: RequestHead) -> None:
    key = head.api_key
    if not key:
        raise MissingKey
    for field in head.headers:
        if field[1].find(key) >= 0:  # of `key in …` Python would first try to make a number
            raise BadRequest("The API key stands in another header too, and would be forwarded. Send it once.")


def check_head(head: RequestHead, body_max_bytes: int, query: bytes) -> None:
    """Refuse what is too large, and a key where it would be forwarded. Raises BodyTooLarge, BadRequest."""
    if head.content_length is not None and head.content_length > body_max_bytes:
        raise BodyTooLarge(body_max_bytes)
    if query and head.api_key and head.api_key in query:
        raise BadRequest("The API key stands in the URL too, and would be forwarded. Send it once.")


def _drop_named(head: RequestHead, connection: bytes) -> None:
    """Drop the fields that Connection names (RFC 9110 section 7.6.1)."""
    named = {token.strip().lower() for token in connection.split(b",")}
    if named & {b"host", b"content-length", b"transfer-encoding"}:
        raise BadRequest("Connection may not name Host or the framing.")
    head.headers = [field for field in head.headers if field[0] not in named]


RESPONSE_DROPPED = frozenset(
    (*HOP_BY_HOP, b"x-request-id", b"x-credits-cost", b"x-credits-remaining", b"x-credits-settled")
)


def clean_response(headers: Headers, settle_header: bytes, own: Headers) -> Headers:
    """The answer's fields for the caller: hop-by-hop out, the upstream's accounting out, then `own` in."""
    dropped = RESPONSE_DROPPED
    cleaned = [field for field in headers if field[0] not in dropped]
    if len(cleaned) != len(headers):
        for name, value in headers:
            if name == b"connection" and value.lower() not in PERSISTENCE:
                tokens = {token.strip().lower() for token in value.split(b",")} - {b"content-length"}
                cleaned = [field for field in cleaned if field[0] not in tokens]
    if settle_header:
        cleaned = [field for field in cleaned if field[0] != settle_header]
    cleaned += own
    return cleaned
