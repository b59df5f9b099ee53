"""How a request is written: RFC 9112 sections 3, 5 and 6."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import InternalError

if TYPE_CHECKING:
    from gateway.upstreams.targets import Target
    from gateway.upstreams.transport import UpstreamRequest

SMALL_BODY_BYTES = 16_384
"""A body up to this size is copied behind the head, so that both leave in one write."""

NUL: Final = 0
SPACE: Final = 0x20
"""As numbers: of `b" " in target` Python would first try to make one, in vain, which takes ten times as long."""

LENGTH_NEEDED = frozenset({b"POST", b"PUT", b"PATCH"})
"""Methods that give a body a meaning: an empty one is said as Content-Length: 0 (RFC 9110 section 8.6)."""


class RequestHead:
    """Writes the heads of requests to one target. Host comes first, Upgrade and framing last."""

    __slots__ = ("_after_target", "_before_target")

    def __init__(self, target: Target) -> None:
        self._before_target = b" " + target.base_path
        self._after_target = b" HTTP/1.1\r\nhost: " + target.authority

    def write(self, request: UpstreamRequest) -> bytes:
        """The head, and behind it the body if that is small.

        Raises InternalError rather than let a line break, NUL or space split the head: whoever built the request
        failed to check it, and no byte of it may be sent.
        """
        target = request.target
        first = b"".join((request.method, self._before_target, target, self._after_target))
        lines = [first, *[b": ".join(field) for field in request.headers]]
        if request.upgrade:
            lines.append(b"connection: upgrade\r\nupgrade: " + request.upgrade)
        body = request.body
        if type(body) is not bytes:
            length = request.content_length
            lines.append(b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length)
        elif body or request.method in LENGTH_NEEDED:
            lines.append(b"content-length: %d" % len(body))
        lines.append(b"\r\n")
        head = b"\r\n".join(lines)
        line_count = len(lines) + 1 + (1 if request.upgrade else 0)
        if head.count(b"\n") != line_count or head.count(b"\r") != line_count or NUL in head or SPACE in target:
            raise InternalError(cause="A request to an upstream has a line break, NUL or space where none may be")
        if type(body) is bytes and 0 < len(body) <= SMALL_BODY_BYTES:
            return head + body
        return head
