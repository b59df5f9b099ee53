"""How a request's body is delimited and what becomes of the connection (RFC 9112 sections 6 and 9).

Ambiguity is never resolved, always refused: two parties that resolve it differently are request smuggling.
"""

from __future__ import annotations

from gateway.errors import BadRequest, ExpectationFailed, NotImplementedHere

LENGTH_DIGITS_MAX = 18
"""More digits than this could overflow somebody's 64-bit integer."""

FRAMING_FIELDS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade", b"sec-websocket-version")
)
"""The only fields whose values the server looks at."""

LIST_FIELDS = frozenset((b"connection", b"upgrade", b"sec-websocket-version"))
"""Those that may stand in several lines; any other of FRAMING_FIELDS twice is refused."""


class Framing:
    """`content_length` is 0 for no body; it means nothing when `chunked`. `keep_alive` is what the caller allows;
    `tunnel` says that it offers to turn the connection into a WebSocket."""

    __slots__ = ("chunked", "content_length", "expects_continue", "keep_alive", "tunnel")

    def __init__(
        self,
        content_length: int = 0,
        chunked: bool = False,
        keep_alive: bool = True,
        expects_continue: bool = False,
        tunnel: bool = False,
    ) -> None:
        self.content_length = content_length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.tunnel = tunnel


def read_framing(fields: dict[bytes, bytes], *, method: str, http_1_1: bool) -> Framing:
    """Raises BadRequest, NotImplementedHere, ExpectationFailed. `fields` are those of FRAMING_FIELDS that came."""
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    if coding is not None:
        _check_coding(coding, length, http_1_1=http_1_1)
    content_length = 0 if length is None else _read_length(length)
    expectation = fields.get(b"expect")
    if expectation is not None and expectation.lower() != b"100-continue":
        raise ExpectationFailed("The only expectation that is met is `100-continue`.")
    framing = Framing(
        content_length,
        coding is not None,
        http_1_1,
        http_1_1 and expectation is not None and (coding is not None or content_length > 0),
    )
    connection = fields.get(b"connection")
    if connection is not None and connection != b"keep-alive":
        _read_connection(framing, connection, fields, method)
    return framing


def _check_coding(coding: bytes, length: bytes | None, *, http_1_1: bool) -> None:
    if length is not None:
        raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")
    if not http_1_1:
        raise BadRequest("HTTP/1.0 has no Transfer-Encoding.")
    if coding.lower() == b"chunked":
        return
    if b"chunked" in coding.lower().replace(b" ", b"").split(b",")[:-1]:
        raise BadRequest("`chunked` must be the only and last transfer coding.")
    raise NotImplementedHere("The only transfer coding is `chunked`.")


def _read_length(length: bytes) -> int:
    if not length.isdigit() or len(length) > LENGTH_DIGITS_MAX:
        raise BadRequest("Content-Length must be a decimal number.")
    return int(length)


def _read_connection(framing: Framing, connection: bytes, fields: dict[bytes, bytes], method: str) -> None:
    options = [option.strip(b" \t") for option in connection.lower().split(b",")]
    if b"close" in options:
        framing.keep_alive = False
    upgrade = fields.get(b"upgrade")
    if upgrade is None or b"upgrade" not in options:
        return
    # Whoever offers another protocol may already speak it in the next byte. Ignoring the offer is allowed; reading
    # what follows as a request is not (facts: Pingora CVE-2026-2833).
    framing.tunnel = (
        framing.keep_alive
        and method == "GET"
        and upgrade.lower() == b"websocket"
        and fields.get(b"sec-websocket-version") == b"13"
        and not framing.chunked
        and framing.content_length == 0
    )
    framing.keep_alive = False
