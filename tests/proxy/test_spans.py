"""Spans of calls as they are made: what is in them, and when there are none."""

from __future__ import annotations

from time import perf_counter
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from gateway.observe.ids import RequestIds, SamplingIds
from gateway.observe.redaction import Redaction
from gateway.proxy.call import Call
from gateway.proxy.spans import Spans
from tests.proxy.harness import response
from tests.proxy.test_once import post

INBOUND = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = INBOUND[:-1] + b"0"


class Room:
    """A queue that keeps what is put."""

    def __init__(self, is_there=True):
        self.is_there = is_there
        self.spans = []

    def has_room(self, count):
        return self.is_there

    def put(self, span):
        self.spans.append(span)


def ended(*, sent=b"", **rest) -> Call:
    call = Call("req_1", perf_counter() - 1)
    call.route = SimpleNamespace(name="/v1/{what}", transport=SimpleNamespace(name="main"))
    call.traceparent = sent
    call.status, call.verdict = 200, "settled"
    call.held_at, call.upstream_at = call.started_at + 0.25, call.started_at + 0.75
    call.response_started = bool(sent)
    for name, value in rest.items():
        setattr(call, name, value)
    return call


def scope(*traceparents: bytes, method="POST", path=b"/v1/it") -> dict:
    return {
        "method": method,
        "raw_path": path,
        "scheme": "http",
        "http_version": "1.1",
        "client": ("192.0.2.1", 4711),
        "server": ("192.0.2.9", 8080),
        "headers": [(b"x-api-key", b"gw_secret12345"), *((b"traceparent", each) for each in traceparents)],
    }


def spans_of(call, asked, *, room=None, ids=None):
    """By their kind."""
    room = room or Room()
    spans = Spans(room, ids or SamplingIds(0), Redaction(), Resource({}), InstrumentationScope("gateway"))
    spans(call, asked, call.started_at + 1)
    assert len({span.kind for span in room.spans}) == len(room.spans)
    return {span.kind: span for span in room.spans}


def sent_for(inbound: bytes) -> bytes:
    return RequestIds().next_traceparent(inbound)


def test_times_are_those_of_the_call():
    sent = sent_for(INBOUND)
    made = spans_of(ended(sent=sent), scope(INBOUND))
    server, client = made[SpanKind.SERVER], made[SpanKind.CLIENT]
    assert server.end_time - server.start_time == pytest.approx(1e9, abs=1e4)
    assert client.start_time - server.start_time == pytest.approx(0.25e9, abs=1e4)
    assert client.end_time - server.start_time == pytest.approx(0.75e9, abs=1e4)
    assert f"{client.context.span_id:016x}".encode() == sent[36:52]
    assert server.attributes["client.address"] == "192.0.2.1"
    assert "gw_secret" not in str([server.to_json(), client.to_json()])


@pytest.mark.parametrize("sent", [True, False])
def test_of_an_unsampled_call_nothing_is_made(sent):
    assert spans_of(ended(sent=sent_for(UNSAMPLED) if sent else b""), scope(UNSAMPLED)) == {}
    assert spans_of(ended(sent=sent_for(b"") if sent else b""), scope()) == {}


def test_where_there_is_no_room_nothing_is_made():
    room = Room(is_there=False)
    assert spans_of(ended(sent=sent_for(INBOUND)), scope(INBOUND), room=room) == {}


def test_two_traceparents_are_none():
    made = spans_of(ended(), scope(INBOUND, INBOUND), ids=SamplingIds(1))
    assert made[SpanKind.SERVER].parent is None
    assert made[SpanKind.SERVER].context.trace_id != int(INBOUND[3:35], 16)


def test_a_method_that_nobody_knows_names_no_span():
    made = spans_of(ended(route=None, status=405, verdict="refused:method-not-allowed"), scope(INBOUND, method="BREW"))
    (server,) = made.values()
    assert (server.name, server.attributes["http.request.method"]) == ("HTTP", "_OTHER")
    assert server.attributes["gateway.credits.verdict"] == "refused:method-not-allowed"


FAILURES = {
    "relayed": ({"status": 503, "verdict": "released:5xx", "released": "5xx"}, "503", "503"),
    "unreachable": (
        {
            "status": 502,
            "verdict": "released:unreachable",
            "released": "unreachable",
            "upstream_at": 0.0,
            "response_started": False,
        },
        "unreachable",
        "unreachable",
    ),
    "not released": ({"status": 504, "upstream_at": 0.0, "response_started": False}, "504", "_OTHER"),
    "caller left": (
        {
            "status": 499,
            "verdict": "released:client_abort",
            "released": "client_abort",
            "upstream_at": 0.0,
            "response_started": False,
        },
        "caller_left",
        "client_abort",
    ),
    "settled too late": (
        {"status": 503, "verdict": "refused:credits-unavailable", "response_started": False},
        "credits-unavailable",
        None,
    ),
    "not found": ({"status": 404}, None, "404"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_has_a_type_from_a_few_words(name):
    rest, of_server, of_client = FAILURES[name]
    made = spans_of(ended(sent=sent_for(INBOUND), **rest), scope(INBOUND))
    server, client = made[SpanKind.SERVER], made[SpanKind.CLIENT]
    assert server.attributes.get("error.type") == of_server
    assert client.attributes.get("error.type") == of_client
    assert (server.status.status_code is StatusCode.ERROR) == (rest["status"] >= 500)
    assert (client.status.status_code is StatusCode.ERROR) == (of_client is not None)
    assert ("http.response.status_code" in server.attributes) == (rest["status"] != 499)
    assert ("http.response.status_code" in client.attributes) == rest.get("response_started", True)


def test_a_call_that_is_done_once_is_told_once_and_its_repeat_went_nowhere(account, script, proxy, monkeypatch):
    told = []
    monkeypatch.setattr(proxy.endpoint, "_trace", lambda call, *_: told.append((call.verdict, call.traceparent[:36])))
    script("it", response())
    for _ in range(2):
        assert post(account, "/once/it", headers=(b"traceparent: " + INBOUND,)).status == 200
    assert told == [("settled", INBOUND[:36]), ("replayed", b"")]
