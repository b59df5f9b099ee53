"""The access log: one record per call, at the price of one string per call.

A record is formatted when the call ends and waits in a list; a shared tick (or a full list) hands all that wait to
one thread, which writes them. Only that thread can be held up by whoever reads the stream: when it is, records
wait up to a bound, then are dropped and counted, and the count is written once the stream moves again.

Where the access log is off there is no AccessLog: callers hold None and test for it.
"""

from __future__ import annotations

import json
import os
import select
import stat
import threading
import time
from json.encoder import encode_basestring_ascii
from queue import SimpleQueue
from random import random
from typing import TYPE_CHECKING

from gateway.observe.logs import utc

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.observe.redaction import Redaction

_LOGGER = "gateway.access"

_JSON = (
    '{"time":"%s.%03dZ","level":"info","logger":"gateway.access","request_id":"%s","method":"%s","path":%s,'
    '"status":%d,"route":%s,"key_id":%s,"cost":%d,"verdict":"%s","bytes":%d,"duration_ms":%.3f,"upstream_ms":%.3f,'
    '"gateway_ms":%.3f}\n'
)
_LINE = (
    "%s.%03d info  gateway.access  request_id=%s method=%s path=%s status=%d route=%s key_id=%s cost=%d verdict=%s"
    " bytes=%d duration_ms=%.3f upstream_ms=%.3f gateway_ms=%.3f\n"
)


_PLAIN = frozenset({"settled", "free", "public", "kept", ""})
"""Verdicts of calls that went well. Others are always recorded."""


class AccessLog:
    """Collects records of one event loop and writes them to the file descriptor `fd`, which stays its owner's.

    Watched by Deadlines (it is Expiring): what waits is written every `flush_seconds`, and as soon as
    `flush_records` wait. At most `waiting_max` wait.
    """

    def __init__(
        self,
        fd: int,
        *,
        json_lines: bool,
        redaction: Redaction,
        flush_seconds: float = 0.2,
        flush_records: int = 512,
        waiting_max: int = 8_192,
        sample: float = 1.0,
        chance: Callable[[], float] = random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.deadline = 0.0
        self.dropped = 0
        """Records dropped so far."""
        self._template = _JSON if json_lines else _LINE
        self._time_format = "%Y-%m-%dT%H:%M:%S" if json_lines else "%H:%M:%S"
        self._to_calendar = time.gmtime if json_lines else time.localtime
        self._json_lines = json_lines
        self._redaction = redaction
        self._flush_seconds = flush_seconds
        self._flush_records = flush_records
        self._waiting_max = waiting_max
        self.sample = sample
        """The share of records of plain successes that are kept."""
        self._chance = chance
        self._clock = clock
        self._second = -1
        self._second_text = ""
        self._waiting: list[str] = []
        self._reported_dropped = 0
        self._writer = _Writer(fd)

    def add(
        self,
        request_id: str,
        method: str,
        path: bytes,
        status: int,
        route: str,
        key_id: str,
        cost: int,
        verdict: str,
        bytes_sent: int,
        duration_seconds: float,
        upstream_seconds: float,
    ) -> None:
        """Note one finished call.

        `path` is the raw path; a query and what is too long are cut off, and what looks like a secret is redacted.
        `verdict` is our own word: `settled`, `released:<reason>` or `refused:<slug>`. `route` and `key_id` may be "".
        """
        if self.sample < 1.0 and status < 400 and verdict in _PLAIN and self._chance() >= self.sample:
            return
        waiting = self._waiting
        if len(waiting) >= self._flush_records and not self.flush() and len(waiting) >= self._waiting_max:
            self.dropped += 1
            return
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime(self._time_format, self._to_calendar(second))
        self._waiting.append(
            self._template
            % (
                self._second_text,
                (now - second) * 1000,
                request_id,
                method,
                encode_basestring_ascii(self._redaction.path(path)).replace("\x7f", "\\u007f"),
                status,
                encode_basestring_ascii(route),
                encode_basestring_ascii(key_id),
                cost,
                verdict,
                bytes_sent,
                duration_seconds * 1000,
                upstream_seconds * 1000,
                # The call without its upstream: the gateway, its database, and the caller's own pace.
                max(0.0, duration_seconds - upstream_seconds) * 1000,
            )
        )

    def redact_by(self, redaction: Redaction) -> None:
        """Hide other secrets from now on."""
        self._redaction = redaction

    def flush(self) -> bool:
        """Hand what waits to the writer. False if the stream still holds up what it was given before."""
        if self._writer.busy:
            return False
        if self.dropped != self._reported_dropped:
            self._waiting.append(self._report_of_dropped())
        if self._waiting:
            self._writer.start("".join(self._waiting).encode())
            self._waiting = []
        return True

    def on_deadline(self, now: float) -> None:
        """The shared tick (Expiring)."""
        self.deadline = now + self._flush_seconds
        self.flush()

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Write what waits. A stream that takes nothing for `timeout_seconds` loses it."""
        give_up_at = time.monotonic() + timeout_seconds
        if self._writer.wait_idle(timeout_seconds):
            self.flush()
        self._writer.close(max(0.0, give_up_at - time.monotonic()))

    def _report_of_dropped(self) -> str:
        count = self.dropped - self._reported_dropped
        self._reported_dropped = self.dropped
        text = "access records were dropped: the stream did not take them"
        if self._json_lines:
            document = {"time": utc(self._clock()), "level": "warning", "logger": _LOGGER, "message": text}
            return json.dumps({**document, "dropped": count}, separators=(",", ":")) + "\n"
        clock = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        return f"{clock}.000 warn  {_LOGGER}  {text}  dropped={count}\n"


class _Writer:
    """A thread that writes one piece after another to a stream that may block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Several workers may share one pipe. Only writes up to PIPE_BUF stay in one piece there (POSIX write()).
        self._piece_bytes = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else 1 << 20
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        # A daemon: a stream that blocks for ever must not keep the process.
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return not self._idle.is_set()

    def wait_idle(self, timeout_seconds: float) -> bool:
        return self._idle.wait(timeout_seconds)

    def start(self, text: bytes) -> None:
        """Write whole lines. Only when not busy."""
        self._idle.clear()
        self._queue.put(text)

    def close(self, timeout_seconds: float) -> None:
        self._queue.put(None)
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                self._write(text)
            except OSError:
                pass  # the reader is gone; there is nowhere left to say so
            self._idle.set()

    def _write(self, text: bytes) -> None:
        start = 0
        while start < len(text):
            end = text.rfind(b"\n", start, start + self._piece_bytes) + 1
            piece = text[start : end or start + self._piece_bytes]
            try:
                start += os.write(self._fd, piece)
            except BlockingIOError:  # somebody made the shared stream non-blocking
                writable = select.poll()
                writable.register(self._fd, select.POLLOUT)
                writable.poll()
