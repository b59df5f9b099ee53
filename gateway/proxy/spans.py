"""The spans of a call, for OpenTelemetry: made when it has ended, from what is known of it then.

    the caller's span ◀── SERVER, the call as the caller saw it ◀── CLIENT, its upstream

The CLIENT span has the id that went upstream in `traceparent`, so what the upstream traces hangs below it. A call that
was not sampled costs a look at its flags and makes nothing. No attribute is a caller's to write but the method, of a
known few, and the path, which loses its query and what looks like a secret.

Imported only where the config has a section `telemetry`.
"""

from __future__ import annotations

import time

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from starlette.types import Scope

from gateway.observe.accumulators import METHODS
from gateway.observe.ids import RequestIds, continues, is_sampled
from gateway.observe.otlp import SpanQueue
from gateway.observe.redaction import Redaction
from gateway.proxy.call import CALLER_LEFT, Call

Attributes = dict[str, str | int]

_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class Spans:
    """What the endpoint calls at the end of each call."""

    def __init__(
        self, queue: SpanQueue, ids: RequestIds, redaction: Redaction, resource: Resource, scope: InstrumentationScope
    ) -> None:
        self.redaction = redaction
        self._queue = queue
        self._ids = ids
        self._resource = resource
        self._scope = scope

    def __call__(self, call: Call, scope: Scope, now: float) -> None:
        """`now` is `time.perf_counter()`, as all times of the call."""
        sent = call.traceparent
        if sent and not is_sampled(sent):
            return
        inbound = _inbound(scope)
        # What was refused before it went upstream has its span all the same, if its trace is sampled.
        context = sent or self._ids.next_traceparent(inbound)
        if not is_sampled(context) or not self._queue.has_room(2 if sent else 1):
            return
        parent = None
        if inbound is not None and continues(inbound, context):
            parent = _context(context, inbound, is_remote=True)
        # In the same trace, but another span than the one that went upstream.
        server = _context(context, self._ids.next_traceparent(context))
        clock = _Clock(now)
        if sent:
            self._queue.put(self._client(call, scope, _context(sent, sent), server, clock))
        self._queue.put(self._server(call, scope, server, parent, clock))

    def _server(
        self, call: Call, scope: Scope, context: SpanContext, parent: SpanContext | None, clock: _Clock
    ) -> ReadableSpan:
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        attributes: Attributes = {
            "http.request.method": method,
            "url.path": self.redaction.path(scope["raw_path"]),
            "url.scheme": scope["scheme"],
            "network.protocol.version": scope["http_version"],
            "gateway.request_id": call.request_id,
            "gateway.credits.cost": call.cost,
            "gateway.credits.verdict": call.verdict,
        }
        name = method if method != "_OTHER" else "HTTP"
        if call.route is not None:
            attributes["http.route"] = call.route.name
            name = f"{name} {call.route.name}"
        if call.hold is not None:
            attributes["gateway.key_id"] = call.hold.key_id
        if call.status != CALLER_LEFT:
            attributes["http.response.status_code"] = call.status
            attributes["http.response.body.size"] = call.bytes_sent
        _add_addresses(attributes, scope)
        error = _error(call)
        if error:
            attributes["error.type"] = error
        status = _FAILED if call.status >= 500 else _UNSET
        return self._span(name, SpanKind.SERVER, context, parent, attributes, status, clock.at(call.started_at), clock)

    def _client(
        self, call: Call, scope: Scope, context: SpanContext, parent: SpanContext, clock: _Clock
    ) -> ReadableSpan:
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        attributes: Attributes = {"http.request.method": method, "gateway.request_id": call.request_id}
        if call.route is not None:
            attributes["gateway.upstream"] = call.route.transport.name
        error = ""
        if call.response_started:
            attributes["http.response.status_code"] = call.status
            error = str(call.status) if call.status >= 400 else ""
        elif not call.upstream_at:
            error = call.released or "_OTHER"
        if error:
            attributes["error.type"] = error
        name = method if method != "_OTHER" else "HTTP"
        status = _FAILED if error else _UNSET
        begin = clock.at(call.held_at)
        return self._span(name, SpanKind.CLIENT, context, parent, attributes, status, begin, clock, call.upstream_at)

    def _span(
        self,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: Attributes,
        status: Status,
        begin: int,
        clock: _Clock,
        end: float = 0.0,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes,
            kind=kind,
            status=status,
            start_time=begin,
            end_time=clock.at(end) if end else clock.now,
            instrumentation_scope=self._scope,
        )


class _Clock:
    """Turns times of a call into nanoseconds of the calendar, all by one look at it."""

    __slots__ = ("_now", "now")

    def __init__(self, now: float) -> None:
        self._now = now
        self.now = time.time_ns()

    def at(self, moment: float) -> int:
        return self.now - int((self._now - moment) * 1e9)


def _inbound(scope: Scope) -> bytes | None:
    """The caller's. Two of them are none (W3C Trace Context)."""
    values = [value for name, value in scope["headers"] if name == b"traceparent"]
    return values[0] if len(values) == 1 else None


def _context(trace: bytes, span: bytes, *, is_remote: bool = False) -> SpanContext:
    """The trace and flags of one traceparent, the span of another."""
    return SpanContext(int(trace[3:35], 16), int(span[36:52], 16), is_remote, TraceFlags(int(trace[53:55], 16)))


def _add_addresses(attributes: Attributes, scope: Scope) -> None:
    for prefix, address in (("client", scope["client"]), ("server", scope["server"])):
        if address:
            attributes[f"{prefix}.address"] = address[0]
            attributes[f"{prefix}.port"] = address[1]


def _error(call: Call) -> str:
    """Why the call failed, in one of few words; "" if it did not."""
    if call.status == CALLER_LEFT:
        return "caller_left"
    if call.status < 500:
        return ""
    kind, _, slug = call.verdict.partition(":")
    if kind == "refused":
        return slug
    return str(call.status) if call.response_started else call.released or str(call.status)
