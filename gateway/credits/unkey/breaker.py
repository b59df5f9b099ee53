"""Not asking Unkey while it is known to be down, so that nobody waits for a deadline in vain.

    closed ──FAILURES_MAX in a row, or failures for longer than FAILING_SECONDS──▶ open ──a success──▶ closed

Whoever holds the breaker probes while it is open; no call is let through to try. No timers: it is a matter of what
has been told and of a clock.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.credits.unkey.errors import UnkeyUnavailable

FAILURES_MAX = 5
FAILING_SECONDS = 1.0
RETRY_AFTER_SECONDS = 1


class Breaker:
    """`clock` gives seconds that only grow. `on_change` is called after each opening and closing.

    `cause` is why it is open, or what failed last; "" once something has succeeded.
    """

    def __init__(self, clock: Callable[[], float], on_change: Callable[[], None] | None = None) -> None:
        self.is_open = False
        self.cause = ""
        self._clock = clock
        self._on_change = on_change
        self._failure_count = 0
        self._failing_since = 0.0

    def admit(self) -> None:
        """Raises UnkeyUnavailable, nothing executed, while it is open."""
        if self.is_open:
            cause = f"Unkey is not asked while it is down: {self.cause}"
            raise UnkeyUnavailable(cause=cause, possibly_executed=False, retry_after_seconds=RETRY_AFTER_SECONDS)

    def succeeded(self) -> None:
        """Unkey has answered, whatever it said."""
        if self._failure_count:
            self._failure_count = 0
            self.cause = ""
            if self.is_open:
                self.is_open = False
                self._changed()

    def failed(self, cause: str) -> None:
        """Unkey could not be asked, or did not answer with anything to rely on."""
        now = self._clock()
        if not self._failure_count:
            self._failing_since = now
        self._failure_count += 1
        self.cause = cause
        lasting = self._failure_count >= FAILURES_MAX or now - self._failing_since > FAILING_SECONDS
        if lasting and not self.is_open:
            self.is_open = True
            self._changed()

    def _changed(self) -> None:
        if self._on_change is not None:
            self._on_change()
