"""What the gateway itself says in the head of a request that goes upstream."""

from __future__ import annotations

from starlette.types import Scope

from gateway.observe.ids import RequestIds, continues
from gateway.proxy.call import Call
from gateway.proxy.headers import RequestHead
from gateway.proxy.route import Route
from gateway.upstreams.transport import UpstreamRequest

TAKES_TRAILERS = ((b"te", b"trailers"), (b"connection", b"te"))
"""Some servers send a trailer only to those who say so (RFC 9110 section 10.1.4)."""


def complete(
    call: Call, route: Route, request: UpstreamRequest, head: RequestHead, scope: Scope, ids: RequestIds
) -> None:
    """Put into the request what only the gateway may say: who calls, and where it goes."""
    headers = request.headers
    call.traceparent = traceparent = ids.next_traceparent(head.traceparent)
    headers += ((b"x-request-id", call.request_id.encode("ascii")), (b"traceparent", traceparent))
    if head.tracestate and head.traceparent is not None and continues(head.traceparent, traceparent):
        headers += head.tracestate
    hold = call.hold
    if hold is not None:
        headers += (
            (b"x-gateway-user", hold.user_id.encode("ascii")),
            (b"x-gateway-key-id", hold.key_id.encode("ascii")),
            route.cost_field,
        )
    target: bytes = scope["raw_path"]
    if route.strip:
        target = target[route.strip :] or b"/"
    query = scope["query_string"]
    request.target = target + b"?" + query if query else target
    if route.is_websocket and "gateway.tunnel" in scope.get("extensions", ()):
        request.upgrade = b"websocket"
    elif route.settle_header:
        headers += TAKES_TRAILERS
