"""How a response is read: RFC 9112 sections 4 to 7, strictly, with no socket in sight.

httptools (llhttp) finds the lines and the chunks and refuses what is malformed. What it lets through and we don't:
HTTP/0.9 and HTTP/2.0, transfer codings other than chunked, an unasked 101, framing in a 1xx, status codes outside
100 to 599, heads and trailers without end, and bytes behind the message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from gateway.errors import BadUpstreamResponse, UpstreamError
from gateway.upstreams.whole_response import KnownLines, read_whole

if TYPE_CHECKING:
    from gateway.upstreams.http1_response import Http1Response

HEAD: Final = 0
BODY: Final = 1
TUNNEL: Final = 2
COMPLETE: Final = 3

HEAD_END: Final = b"\r\n\r\n"
INTERIM_RESPONSES_MAX = 16
TRAILERS_MAX = 100

FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"upgrade"})

_COMMON_NAMES = (
    b"Accept-Ranges Access-Control-Allow-Origin Age Alt-Svc Cache-Control Connection Content-Disposition "
    b"Content-Encoding Content-Language Content-Length Content-Location Content-Range Content-Security-Policy "
    b"Content-Type Date ETag Expires Keep-Alive Last-Modified Link Location Retry-After Server Server-Timing "
    b"Set-Cookie Strict-Transport-Security Trailer Transfer-Encoding Upgrade Vary Via WWW-Authenticate "
    b"X-Content-Type-Options X-Credits-Used X-Frame-Options X-Powered-By X-Request-Id"
).split()
LOWER_CASE: Final = {name: name.lower() for name in _COMMON_NAMES} | {
    name.lower(): name.lower() for name in _COMMON_NAMES
}
"""Common names, as they are mostly written, to lower case: a look-up is cheaper than making the name anew."""


class ResponseParser:
    """Reads one response after another into Http1Response objects.

    `expect` names the next; `feed` moves `state` from HEAD over BODY to COMPLETE (or TUNNEL after an asked 101).
    After COMPLETE, `reusable` says whether the connection's framing is still certain.
    """

    __slots__ = (
        "_body_fed",
        "_chunked",
        "_head_bytes",
        "_head_max_bytes",
        "_headers",
        "_http",
        "_interim_count",
        "_is_head",
        "_known_lines",
        "_length",
        "_overhead_bytes",
        "_response",
        "_seen_http11",
        "_upgrade",
        "_upgrade_answer",
        "reusable",
        "started",
        "state",
    )

    __deletable__ = ("_response",)  # mypyc asks

    def __init__(self, head_max_bytes: int) -> None:
        self._head_max_bytes = head_max_bytes
        self._http: HttpResponseParser | None = None
        self._known_lines: KnownLines = {}
        self.state = COMPLETE
        self.reusable = True
        self.started = False

    def expect(self, response: Http1Response, *, is_head: bool, upgrade: bytes) -> None:
        """Read the next response into `response`. `is_head`: the request's method was HEAD."""
        self._response = response
        self._is_head = is_head
        self._upgrade = upgrade
        self._upgrade_answer = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._length: int | None = None
        self._chunked = False
        self._head_bytes = 0
        self._interim_count = 0
        self._seen_http11 = False
        self.state = HEAD
        self.reusable = True
        self.started = False

    def feed(self, data: bytes) -> bytes:
        """Read on. Gives what came behind a 101's head, else b"". Raises BadUpstreamResponse."""
        in_head = self.state == HEAD
        if in_head:
            if not self.started and self._read_whole(data):
                return b""
            self._begin(data)
        else:
            self._body_fed = False
        try:
            self._http.feed_data(data)  # type: ignore[union-attr]
        except HttpParserUpgrade as upgrade:
            return data[upgrade.args[0] :]
        except HttpParserError as error:
            if self.state != COMPLETE:
                raise _translated(error) from error
            self.reusable = False
        if in_head:
            self._check_head_size()
            if self._http is None and (not data.endswith(HEAD_END) or data.count(HEAD_END) > 1):
                self.reusable = False
        elif not self._body_fed and self.state == BODY:
            self._check_overhead(len(data))
        return b""

    def _begin(self, data: bytes) -> None:
        if self._http is None:
            self._http = HttpResponseParser(self)
        self._head_bytes += len(data)
        if not self.started:
            self.started = True
            self._seen_http11 = data.startswith(b"HTTP/1.1 ")

    def _read_whole(self, data: bytes) -> bool:
        """The short cut: `data` is all of a plain answer."""
        if self._is_head or self._upgrade or len(data) > self._head_max_bytes:
            return False
        whole = read_whole(data, self._known_lines)
        if whole is None:
            return False
        response = self._response
        response.status, response.headers, response.content_length, body = whole
        response.chunks.append(body)
        self.started = True
        self.state = COMPLETE
        del self._response
        return True

    def feed_eof(self) -> None:
        """The upstream closed. Completes a close-delimited body; raises BadUpstreamResponse for one cut short."""
        self.reusable = False
        if self.state == BODY and self._length is None and not self._chunked:
            self.state = COMPLETE
            del self._response
        elif self.state == HEAD:
            raise BadUpstreamResponse(cause="The upstream closed the connection within the response's head")
        elif self.state == BODY:
            raise BadUpstreamResponse(cause="The upstream closed the connection within the response's body")

    def _check_head_size(self) -> None:
        """Exact only for heads near the limit: what fits one small read is not summed up."""
        if self._head_bytes <= self._head_max_bytes:
            return
        size = self._head_bytes
        if self.state != HEAD:
            size = sum(len(name) + len(value) + 4 for name, value in self._headers)
        if size > self._head_max_bytes:
            self.state = HEAD
            raise BadUpstreamResponse(cause=f"The response's head has more than {self._head_max_bytes} bytes")

    def _check_overhead(self, byte_count: int) -> None:
        """Chunk extensions and trailers bring no body byte; they may not go on without end."""
        self._overhead_bytes += byte_count
        if self._overhead_bytes > self._head_max_bytes:
            raise BadUpstreamResponse(cause="The response's chunk extensions or trailers have no end")

    def close(self) -> None:
        """Let go of the parser, which refers back to this object."""
        self._http = None

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self.state == COMPLETE:
            raise BadUpstreamResponse(cause="The upstream sent more than its response")

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = LOWER_CASE.get(name) or name.lower()
        value = value.rstrip(b" \t")
        if self.state == HEAD:
            self._headers.append((lower, value))
            if lower in FRAMING:
                self._read_framing(lower, value)
        elif self.state == BODY:
            self._response.trailers.append((lower, value))
            if len(self._response.trailers) > TRAILERS_MAX:
                raise BadUpstreamResponse(cause=f"The response has more than {TRAILERS_MAX} trailers")

    def on_headers_complete(self) -> None:
        http = self._http
        status = http.get_status_code()  # type: ignore[union-attr]
        if not self._seen_http11:
            self._read_version()
        if status < 200:
            self._read_interim(status)
            return
        if status > 599:
            raise BadUpstreamResponse(cause=f"The response has status {status}")
        response = self._response
        response.status = status
        response.headers = self._headers
        response.content_length = self._length
        self._overhead_bytes = 0
        self._body_fed = True
        if self._is_head or status in (204, 205, 304):
            self._end_without_body(status)
        else:
            self.state = BODY

    def on_body(self, chunk: bytes) -> None:
        if self.state != BODY:
            self.reusable = False
            return
        self._body_fed = True
        self._overhead_bytes = 0
        response = self._response
        response.chunks.append(chunk)
        response.buffered_bytes += len(chunk)

    def on_message_complete(self) -> None:
        if self.state == BODY:
            self.state = COMPLETE
            del self._response  # an idle connection must not keep the last body alive

    # Rules.

    def _read_framing(self, name: bytes, value: bytes) -> None:
        if name == b"content-length":
            self._length = int(value) if value.isdigit() else None
            if self._length is None:
                raise BadUpstreamResponse(cause="The response's Content-Length is not a number")
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or self._chunked:
                raise BadUpstreamResponse(cause="The response's Transfer-Encoding is not just chunked")
            self._chunked = True
        elif name == b"connection":
            if b"close" in value.lower():
                self.reusable = False
        else:
            self._upgrade_answer = value.lower()

    def _read_version(self) -> None:
        """HTTP/1.0 is read but never reused. Its chunked coding would be faulty framing (RFC 9112 section 6.1)."""
        version = self._http.get_http_version()  # type: ignore[union-attr]
        if version == "1.0":
            self.reusable = False
        if version not in ("1.0", "1.1") or (version == "1.0" and self._chunked):
            raise BadUpstreamResponse(cause=f"The response is framed as HTTP/{version} can't be")

    def _read_interim(self, status: int) -> None:
        """Drop a 1xx (RFC 9110 section 15.2) unless it is the 101 that was asked for."""
        if status == 101:
            self._switch_protocols()
            return
        self._interim_count += 1
        if status < 100 or self._length is not None or self._chunked or self._interim_count > INTERIM_RESPONSES_MAX:
            raise BadUpstreamResponse(cause=f"An interim response {status} has a body, or there are too many")
        self._headers = []
        self._seen_http11 = False

    def _switch_protocols(self) -> None:
        if not self._upgrade or self._upgrade_answer != self._upgrade.lower():
            raise BadUpstreamResponse(cause="The upstream switched to a protocol that was not asked for")
        response = self._response
        response.status = 101
        response.headers = [
            field for field in self._headers if field[0] not in (b"content-length", b"transfer-encoding")
        ]
        response.content_length = None
        self.reusable = False
        self.state = TUNNEL

    def _end_without_body(self, status: int) -> None:
        """HEAD, 204, 205 and 304 end with the head, whatever their fields say (RFC 9112 section 6.3).

        llhttp knows this of 204 and 304 only: for the others a fresh parser reads the next response. A 204 or 205
        keeps no framing fields, for they would promise the caller a body.
        """
        if (self._chunked or self._length) and status != 304:
            # A faulty upstream sends that body, perhaps a moment later: it would be the answer to somebody else.
            self.reusable = False
        if status in (204, 205):
            self._response.headers = [
                field for field in self._headers if field[0] not in (b"content-length", b"transfer-encoding")
            ]
            self._response.content_length = None if status == 204 else 0
        if self._is_head or status == 205:
            self._http = None
        self.state = COMPLETE
        del self._response


def _translated(error: HttpParserError) -> UpstreamError:
    """Our own refusal if it was raised in a callback, else llhttp's."""
    if isinstance(error, HttpParserCallbackError) and isinstance(error.__context__, UpstreamError):
        return error.__context__
    return BadUpstreamResponse(cause=f"{type(error).__name__}: {error}")
