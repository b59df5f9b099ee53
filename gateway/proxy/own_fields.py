"""What the gateway itself says in the head of an answer."""

from __future__ import annotations

from time import perf_counter

from gateway.proxy.call import KEPT, Call
from gateway.quota import quota_fields
from gateway.upstreams.transport import Headers


def own_fields(call: Call) -> Headers:
    own: Headers = [(b"x-request-id", call.request_id.encode("ascii"))]
    hold = call.hold
    if call.address_quota is not None or (hold is not None and hold.quota is not None):
        quotas = (call.address_quota, None if hold is None else hold.quota)
        own += quota_fields(quota for quota in quotas if quota is not None)
    if hold is not None:
        kept = hold.cost
        if call.verdict != KEPT:  # else the cost is known only at the end
            kept = call.cost
            own.append((b"x-credits-cost", b"%d" % kept))
        if hold.available is not None:
            own.append((b"x-credits-remaining", b"%d" % (hold.available + hold.cost - kept)))
    return own


def timing(call: Call) -> Headers:
    """Where the time until the answer's head went, in milliseconds: with the upstream, with the credits, and the rest.
    The gateway's own time is all but the upstream's."""
    upstream = (call.upstream_at - call.held_at) * 1000
    verify = (call.held_at - call.asked_at) * 1000
    own = max(0.0, (perf_counter() - call.started_at) * 1000 - upstream)
    return [
        (b"x-gateway-time-ms", b"%.2f" % own),
        (b"server-timing", b"gateway;dur=%.2f, verify;dur=%.2f, upstream;dur=%.2f" % (own, verify, upstream)),
    ]
