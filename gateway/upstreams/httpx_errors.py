"""What each of httpx's exceptions means for a call. A test holds this table complete."""

from __future__ import annotations

import httpx

from gateway.errors import (
    BadRequest,
    BadUpstreamResponse,
    GatewayError,
    InternalError,
    NoHealthyTarget,
    UpstreamTimeout,
    UpstreamUnreachable,
)

NEVER_SENT: dict[type[Exception], type[GatewayError]] = {
    httpx.ConnectError: UpstreamUnreachable,
    httpx.ConnectTimeout: UpstreamTimeout,
    httpx.ProxyError: UpstreamUnreachable,
    httpx.UnsupportedProtocol: UpstreamUnreachable,
}
"""No byte of the request can have reached the upstream."""

OTHERS: dict[type[Exception], type[GatewayError]] = {
    httpx.PoolTimeout: NoHealthyTarget,
    httpx.TimeoutException: UpstreamTimeout,
    httpx.NetworkError: UpstreamUnreachable,
    httpx.LocalProtocolError: BadRequest,
    httpx.RemoteProtocolError: BadUpstreamResponse,
    httpx.ProtocolError: BadUpstreamResponse,
    httpx.TransportError: UpstreamUnreachable,
    httpx.DecodingError: BadUpstreamResponse,
    httpx.TooManyRedirects: BadUpstreamResponse,
    httpx.RequestError: UpstreamUnreachable,
    httpx.HTTPStatusError: BadUpstreamResponse,
    httpx.HTTPError: UpstreamUnreachable,
    httpx.StreamError: InternalError,
    httpx.InvalidURL: InternalError,
    httpx.CookieConflict: InternalError,
}

CLOSED_BEFORE_HEAD = "disconnected without sending a response"
"""httpcore's words for a connection closed before a byte of the answer: it has no class of its own for that."""


def translated(error: Exception) -> GatewayError:
    """The GatewayError that `error` means. One that is none of httpx's is a defect; ours stay as they are."""
    if isinstance(error, GatewayError):
        return error
    cause = f"{type(error).__name__}: {error}"
    if isinstance(error, httpx.RemoteProtocolError) and CLOSED_BEFORE_HEAD in str(error):
        return UpstreamUnreachable(cause=cause)
    for ancestor in type(error).__mro__:
        if ancestor in NEVER_SENT:
            never_sent = NEVER_SENT[ancestor]
            return never_sent(cause=cause, possibly_executed=False)
        if ancestor in OTHERS:
            return OTHERS[ancestor](cause=cause)
    return InternalError(cause=cause)
