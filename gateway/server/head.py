"""The head of a request, from bytes (RFC 9112 sections 2 to 5): strict, and every refusal has its status.

The grammar accepted here is narrower than the RFC's, and no byte after the head is looked at: llhttp would read on
into what follows, and forgives much that would then need a second look (two spaces, empty lines, any method). The
price is a microsecond a request. tests/server holds that whatever is accepted here means the same to llhttp.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from gateway.errors import (
    BadRequest,
    HeadTooLarge,
    MethodNotAllowed,
    NotImplementedHere,
    UriTooLong,
    VersionNotSupported,
)
from gateway.server.authority import check_authority
from gateway.server.framing import FRAMING_FIELDS, LIST_FIELDS, Framing, read_framing

if TYPE_CHECKING:
    from gateway.server.limits import Limits

Head = tuple[str, bytes, bytes, bool, list[tuple[bytes, bytes]], Framing]
"""Method, raw path, raw query, whether the version is 1.1 (else 1.0), fields with lower-case names, framing."""

KnownLines = dict[bytes, tuple[bytes, bytes]]
"""Header lines of a connection's earlier requests, as they were read: a caller sends the same ones again and again."""
KNOWN_LINES_MAX = 32
KNOWN_LINE_MAX_BYTES = 256

METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}

CRLF = b"\r\n"
END_OF_HEAD = CRLF + CRLF
TEXT_BYTES = bytes((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
"""What a line may be made of: no control but HTAB."""
TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
PATH_BYTES = b"/?:@-._~!$&'()*+,;=%0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
QUERY_BYTES = PATH_BYTES + b"[]{}|^`"
"""Browsers and many clients leave the last ones as they are in a query, where nothing hangs on them."""

COMMON_NAMES = (  # noqa: SIM905 - a list of fields is read as a text
    "Accept|Accept-Charset|Accept-Encoding|Accept-Language|Access-Control-Request-Headers|Access-Control-Request-Method"
    "|Authorization|Cache-Control|Connection|Content-Encoding|Content-Length|Content-Type|Cookie|Date|DNT|Expect"
    "|Forwarded|From|Host|HTTP2-Settings|Idempotency-Key|If-Match|If-Modified-Since|If-None-Match|If-Range"
    "|If-Unmodified-Since|Keep-Alive|Last-Event-ID|Max-Forwards|Origin|Pragma|Prefer|Priority|Proxy-Authorization"
    "|Proxy-Connection|Range|Referer|Sec-Fetch-Dest|Sec-Fetch-Mode|Sec-Fetch-Site|Sec-WebSocket-Extensions"
    "|Sec-WebSocket-Key|Sec-WebSocket-Protocol|Sec-WebSocket-Version|TE|Traceparent|Tracestate|Trailer"
    "|Transfer-Encoding|Upgrade|Upgrade-Insecure-Requests|User-Agent|Via|X-API-Key|X-Api-Key|X-Forwarded-For"
    "|X-Forwarded-Host|X-Forwarded-Proto|X-Real-IP|X-Request-ID|X-Request-Id|X-Requested-With"
).split("|")
NAMES = {spelling.encode(): name.lower().encode() for name in COMMON_NAMES for spelling in (name, name.lower())}
"""Spellings known to be tokens, and the name in lower case: one look-up instead of a check and a copy."""

PLAIN = Framing()
"""Of a request with no field about framing but Host. Shared: nobody writes to a Framing once it is read."""

VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*)(/[^?]*)?(?:\?(.*))?")


def read_head(head: bytes, limits: Limits, known: KnownLines) -> Head:
    """`head` is all before the empty line. Raises a GatewayError whose status is the answer."""
    lines = head.split(CRLF)
    request_line, count = lines[0], len(lines) - 1
    if head.translate(None, TEXT_BYTES) != CRLF * count:
        raise BadRequest("The head has a control character, or a line not ended by CR LF.")
    if count > limits.head_max_fields:
        raise HeadTooLarge(f"A request may have {limits.head_max_fields} header fields at most.")
    words = request_line.split(b" ")
    if len(words) != 3:
        raise BadRequest("The request line must be a method, a target and a version.")
    raw_method, target, version = words
    http_1_1 = version == b"HTTP/1.1" or _read_older_version(version)
    method = METHODS.get(raw_method)
    if method is None:
        _refuse_method(raw_method)
    if len(target) > limits.uri_max_bytes:
        raise UriTooLong(f"The request target may have {limits.uri_max_bytes} bytes at most.")
    headers, fields = read_fields(lines, known)
    host = fields.get(b"host")
    if host is not None:
        check_authority(host)
    elif http_1_1:
        raise BadRequest("HTTP/1.1 needs a Host.")
    framing = PLAIN if http_1_1 and len(fields) == 1 else read_framing(fields, method=method, http_1_1=http_1_1)
    path, query = _read_target(target, headers)
    return method, path, query, http_1_1, headers, framing


def read_fields(lines: list[bytes], known: KnownLines) -> tuple[list[tuple[bytes, bytes]], dict[bytes, bytes]]:
    """All fields in order, and once more by name those that matter for framing. The first line is no field."""
    headers: list[tuple[bytes, bytes]] = []
    fields: dict[bytes, bytes] = {}
    del lines[0]
    for line in lines:
        field = known.get(line) or _read_line(line, known)
        headers.append(field)
        if field[0] in FRAMING_FIELDS:
            name, value = field
            if name not in fields:
                fields[name] = value
            elif name in LIST_FIELDS:
                fields[name] += b"," + value
            else:
                raise BadRequest(f"`{name.decode()}` stands there twice.")
    return headers, fields


def _read_line(line: bytes, known: KnownLines) -> tuple[bytes, bytes]:
    spelling, colon, value = line.partition(b":")
    if not colon:
        raise BadRequest("A header line has no colon.")
    field = NAMES.get(spelling) or read_name(spelling), value.strip(b" \t")
    if len(line) <= KNOWN_LINE_MAX_BYTES:
        if len(known) >= KNOWN_LINES_MAX:
            known.clear()
        known[line] = field
    return field


def read_name(spelling: bytes) -> bytes:
    """The field's name in lower case. White space before the colon or at the line's start (obs-fold) ends here."""
    if not spelling or spelling.translate(None, TOKEN_BYTES):
        raise BadRequest("A header name is not valid, or is folded over two lines.")
    return spelling.lower()


def refuse_unfinished(seen: bytes | bytearray, new: bytes) -> None:
    """Raises BadRequest if no head can come of `new` after `seen`: it need not be waited for."""
    data = b"\r" + new if seen.endswith(b"\r") else new
    pairs, returns = data.count(CRLF), data.count(b"\r")
    if pairs != data.count(b"\n") or (pairs != returns and not (data.endswith(b"\r") and returns == pairs + 1)):
        raise BadRequest("A line is not ended by CR LF.")
    if data.translate(None, TEXT_BYTES + CRLF):
        raise BadRequest("The head has a control character.")


def refuse_too_long(head: bytes | bytearray, limits: Limits) -> None:
    """Raises UriTooLong or HeadTooLarge if `head`, complete or not, is over the limit already."""
    line_end = head.find(CRLF, 2)
    if (len(head) if line_end < 0 else line_end) > limits.uri_max_bytes + len(b"OPTIONS  HTTP/1.1\r\n"):
        raise UriTooLong(f"The request target may have {limits.uri_max_bytes} bytes at most.")
    if len(head) > limits.head_max_bytes:
        raise HeadTooLarge(f"The head of a request may have {limits.head_max_bytes} bytes at most.")


def _read_older_version(version: bytes) -> bool:
    if version == b"HTTP/1.0":
        return False
    if VERSION.fullmatch(version):
        raise VersionNotSupported
    raise BadRequest("The request line has no HTTP version.")


def _refuse_method(method: bytes) -> NoReturn:
    if not method or method.translate(None, TOKEN_BYTES):
        raise BadRequest("The method is not a token.")
    if method in (b"CONNECT", b"TRACE", b"QUERY"):
        raise MethodNotAllowed(tuple(METHODS.values()))
    raise NotImplementedHere("The method is not known here.")


def _read_target(target: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    if not target.startswith(b"/"):
        return _read_absolute(target, headers)
    path, _, query = target.partition(b"?")
    if target.translate(None, PATH_BYTES):
        _check_target(path, query)
    return path, query


def _check_target(path: bytes, query: bytes) -> None:
    if b"?" in path or path.translate(None, PATH_BYTES) or query.translate(None, QUERY_BYTES):
        raise BadRequest("The request target has a character that must be percent-encoded.")


def _read_absolute(target: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Path and query of an absolute target, whose authority takes the place of Host (RFC 9112 section 3.2.2)."""
    match = ABSOLUTE.fullmatch(target)
    if match is None:
        raise BadRequest("The request target must be a path.")
    authority, path, query = match.group(1), match.group(2) or b"/", match.group(3) or b""
    check_authority(authority)
    _check_target(path, query)
    headers[:] = [(b"host", authority), *(field for field in headers if field[0] != b"host")]
    return path, query
