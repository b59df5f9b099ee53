"""Request ids and W3C trace context."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.ids import RequestIds, SamplingIds, continues, is_sampled

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"
VALID = b"00-" + TRACE + b"-" + SPAN + b"-01"
NEW_SHAPE = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]")


def test_request_ids_are_header_safe_and_sort_by_age():
    ids = RequestIds()
    made = [ids.next() for _ in range(70_000)]
    assert len(set(made)) == len(made)
    assert made == sorted(made)
    assert all(re.fullmatch(r"req_[0-9a-f]{26}", one) for one in made)


def test_request_ids_differ_between_processes():
    script = "from gateway.observe.ids import RequestIds\ni = RequestIds()\nfor _ in range(500): print(i.next())"
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    made = "".join(process.communicate(timeout=60)[0] for process in processes).split()
    assert len(made) == 1500
    assert len(set(made)) == 1500


def test_no_system_call_is_made_per_id(monkeypatch):
    ids = RequestIds()

    def refuse(*_):
        raise AssertionError("asked the system for randomness")

    monkeypatch.setattr("os.urandom", refuse)
    monkeypatch.setattr("random._urandom", refuse)
    for _ in range(100):
        ids.next()
        ids.next_traceparent()
        ids.next_traceparent(VALID)


@pytest.mark.parametrize(
    ("inbound", "flags"),
    [
        (VALID, b"01"),
        (VALID[:-2] + b"00", b"00"),
        (VALID[:-2] + b"02", b"02"),  # random (level 2)
        (VALID[:-2] + b"03", b"03"),
        (VALID[:-2] + b"09", b"01"),  # unknown flags MUST be set to zero
        (VALID[:-2] + b"ff", b"03"),
        (b"01" + VALID[2:], b"01"),  # later versions are read as far as they mean the same
        (b"cc" + VALID[2:], b"01"),
        (b"cc" + VALID[2:] + b"-what-the-future-will-be-like", b"01"),
        (b"01" + VALID[2:] + b"-", b"01"),
        (b"fe" + VALID[2:-2] + b"02", b"00"),  # of a later version only `sampled` is known
    ],
)
def test_a_valid_trace_goes_on_with_a_new_span(inbound, flags):
    outbound = RequestIds().next_traceparent(inbound)
    assert NEW_SHAPE.fullmatch(outbound)
    assert outbound[:36] == b"00-" + TRACE + b"-"
    assert outbound[36:52] not in (SPAN, b"0" * 16)
    assert outbound[53:] == flags
    assert continues(inbound, outbound)


@pytest.mark.parametrize(
    "inbound",
    [
        None,
        b"",
        b"00",
        b"ff" + VALID[2:],  # version ff is forbidden
        b"0" + VALID[2:],
        b"000" + VALID[2:],
        b".0" + VALID[2:],
        b"0." + VALID[2:],
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"cc-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE.upper() + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + SPAN.upper() + b"-01",
        b"00-" + TRACE[1:] + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"a-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + SPAN[1:] + b"-01",
        b"00-" + TRACE + b"-" + SPAN + b"a-01",
        b"00-" + b"." + TRACE[1:] + b"-" + SPAN + b"-01",
        VALID[:-1],
        VALID[:-2] + b"0A",
        VALID[:-2] + b".1",
        VALID + b"1",
        VALID + b"-",  # version 00 has exactly 55 characters
        VALID + b"-more",
        VALID + b"\n",
        b"cc" + VALID[2:] + b".what",  # a later version goes on after a dash or not at all
        b" " + VALID,
        VALID.replace(b"-", b"_"),
        VALID + b"," + VALID,
        "00-０af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".encode(),
    ],
)
def test_anything_else_starts_a_new_unsampled_trace(inbound):
    ids = RequestIds()
    outbound = ids.next_traceparent(inbound)
    assert NEW_SHAPE.fullmatch(outbound)
    assert TRACE not in outbound
    assert outbound[3:35] != b"0" * 32
    assert outbound[36:52] != b"0" * 16
    assert outbound[53:] == b"00"
    assert inbound is None or not continues(inbound, outbound)
    assert ids.next_traceparent(inbound)[3:35] != outbound[3:35]


HEX = st.text("0123456789abcdef")


@given(
    st.one_of(
        st.binary(max_size=80),
        st.from_regex(rb"[0-9a-fA-F]{2}-[0-9a-fA-F]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-.{0,9})?", fullmatch=True),
        st.from_regex(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?", fullmatch=True),
    )
)
def test_what_goes_upstream_is_always_valid(inbound):
    outbound = RequestIds().next_traceparent(inbound)
    assert NEW_SHAPE.fullmatch(outbound)
    assert set(outbound[3:35]) != {ord("0")}
    parts = inbound.split(b"-")
    well_formed = (
        len(inbound) >= 55
        and [len(part) for part in parts[:4]] == [2, 32, 16, 2]
        and all(set(part) <= set(b"0123456789abcdef") for part in parts[:4])
        and parts[0] != b"ff"
        and parts[1].strip(b"0")
        and parts[2].strip(b"0")
        and (parts[0] != b"00" or len(parts) == 4)
    )
    assert continues(inbound, outbound) == bool(well_formed)


def test_spans_and_new_traces_never_repeat():
    ids = RequestIds()
    made = [ids.next_traceparent() for _ in range(5000)]
    assert len({one[3:35] for one in made}) == len({one[36:52] for one in made}) == 5000


@pytest.mark.parametrize(("sample", "least", "most"), [(0, 0, 0), (0.25, 400, 600), (1, 2000, 2000)])
def test_of_new_traces_a_share_is_sampled(sample, least, most):
    ids = SamplingIds(sample)
    sampled = [one for one in (ids.next_traceparent(b"nonsense") for _ in range(2000)) if is_sampled(one)]
    assert least <= len(sampled) <= most
    assert all(NEW_SHAPE.fullmatch(one) and int(one[19:35], 16) < sample * 2**64 for one in sampled)


@pytest.mark.parametrize("sample", [0, 1])
@pytest.mark.parametrize(("flags", "is_so"), [(b"00", False), (b"01", True), (b"02", False), (b"03", True)])
def test_of_a_trace_that_goes_on_the_caller_has_decided(sample, flags, is_so):
    outbound = SamplingIds(sample).next_traceparent(VALID[:-2] + flags)
    assert outbound[53:] == flags
    assert is_sampled(outbound) == is_so
    assert continues(VALID, outbound)
