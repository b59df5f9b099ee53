"""Names for one call: its request id, and its place in a distributed trace.

Neither is a secret, and both are made for every call, so neither costs a system call: the operating system's
randomness is asked once per process, and a counter or a generator seeded by it does the rest.
"""

from __future__ import annotations

import random
import re
import secrets
from itertools import count

_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]").fullmatch
"""W3C Trace Context, "traceparent Header Field Values": lower case, no zero ids; here with known flags only."""

_ANY_TRACEPARENT = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?P<trace_id>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}"
    rb"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.DOTALL,
).fullmatch
"""The same with flags we don't know, or of a later version, which may go on after another dash."""


class RequestIds:
    """Makes request ids and traceparents. Make one per process, after any fork."""

    __slots__ = ("_next_count", "_prefix", "_random_bits")

    def __init__(self) -> None:
        self._prefix = "req_" + secrets.token_hex(8)
        # Ten hex digits last 2.6 years at 13,000 ids a second: till then the ids of a process sort by age.
        self._next_count = count(1).__next__
        self._random_bits = random.Random(secrets.randbits(256)).getrandbits

    def next(self) -> str:
        """A request id no other process makes: 30 characters of `[a-z0-9_]`."""
        return f"{self._prefix}{self._next_count():010x}"

    def next_traceparent(self, inbound: bytes | None = None) -> bytes:
        """The traceparent to send upstream: a new span in the caller's trace, or in a new one.

        A new trace starts when `inbound` is None or invalid (two header fields count as invalid: pass None). It
        starts unsampled, the default the specification gives to whoever leaves that decision to others. The
        caller's `tracestate` goes along only where `continues(inbound, …)` holds.
        """
        span_id = self._random_bits(64) or 1
        if inbound is not None:
            if _TRACEPARENT(inbound) is not None:
                return b"%b%016x%b" % (inbound[:36], span_id, inbound[52:])
            match = _ANY_TRACEPARENT(inbound)
            if match is not None and (match["more"] is None or match["version"] != b"00"):
                # The known flags go on (sampled; random, of level 2), others MUST be zero. Of a later version only
                # `sampled` may be read.
                known = 3 if match["version"] == b"00" else 1
                return b"00-%b-%016x-%02x" % (match["trace_id"], span_id, int(match["flags"], 16) & known)
        return b"00-%032x-%016x-00" % (self._random_bits(128) or 1, span_id)


class SamplingIds(RequestIds):
    """The same, for who traces calls: of the traces that begin here the share `sample` is sampled."""

    __slots__ = ("sample",)

    def __init__(self, sample: float) -> None:
        super().__init__()
        self.sample = sample

    def next_traceparent(self, inbound: bytes | None = None) -> bytes:
        """As before, but a new trace may be sampled. Of a trace that goes on, its caller has decided.

        By the trace id, as OpenTelemetry's samplers do: so others who sample the same share take the same traces.
        """
        sent = super().next_traceparent(inbound)
        is_new = inbound is None or not continues(inbound, sent)
        return sent[:-1] + b"1" if is_new and int(sent[19:35], 16) < self.sample * 2.0**64 else sent


def is_sampled(traceparent: bytes) -> bool:
    """Whether its flags say so. Only for what `next_traceparent` made."""
    return traceparent[54] in b"13"


def continues(inbound: bytes, outbound: bytes) -> bool:
    """Whether the traceparent we send carries on the trace that the caller sent."""
    return inbound[3:35] == outbound[3:35]
