"""What is known of one call while it runs, for its headers, the log and the metrics."""

from __future__ import annotations

from gateway.credits.provider import Hold
from gateway.proxy.once import Once
from gateway.proxy.route import Route
from gateway.quota import Quota

CALLER_LEFT = 499
"""The status the log gives a call whose caller left before an answer (nginx's number; never sent)."""


KEPT = "kept"
"""The verdict while the answer is under way and what it costs is not known yet."""


class Call:
    """One call. Times are `time.perf_counter()` seconds.

    `verdict` is what became of the credits: settled, kept (until the cost is known), free, public, released:<why>,
    replayed (answered as before, at no cost) or refused:<slug>; `released` is the why, one of few words. `cost` is what
    was kept so far. `counted_key`: the API key, where the call counts in its route's concurrency. `once`: where it has
    an Idempotency-Key that its route honours. `traceparent`: as it went upstream.
    """

    __slots__ = (
        "address_quota",
        "asked_at",
        "bytes_sent",
        "cost",
        "counted_key",
        "held_at",
        "hold",
        "once",
        "released",
        "request_id",
        "response_started",
        "route",
        "started_at",
        "status",
        "traceparent",
        "upstream_at",
        "verdict",
    )

    def __init__(self, request_id: str, started_at: float, once: Once | None = None) -> None:
        self.request_id = request_id
        self.started_at = started_at
        self.once = once
        self.asked_at = 0.0
        self.held_at = 0.0
        self.upstream_at = 0.0
        self.route: Route | None = None
        self.hold: Hold | None = None
        self.status = CALLER_LEFT
        self.bytes_sent = 0
        self.address_quota: Quota | None = None
        self.counted_key = b""
        self.traceparent = b""
        self.cost = 0
        self.released = ""
        self.verdict = ""
        self.response_started = False
