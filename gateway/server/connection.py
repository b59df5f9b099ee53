"""The socket side of a caller's connection: writing with back-pressure, deadlines, and the ways to end it.

There is no timer per connection or request. Two floats say when to look next at what the caller owes: `read_deadline`
for bytes it has to send, `write_deadline` for bytes it has to take; `deadline` is the earlier one and is what the
listener's Deadlines look at.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from typing import Any

from gateway.deadlines import NEVER
from gateway.server.limits import LINGER_SECONDS

PAUSED_LOOK_SECONDS = 0.4
"""How often a caller is looked at whose socket is left alone: an end that nobody reads is not reported by the loop."""

TCP_CLOSE, TCP_CLOSE_WAIT = 7, 8
"""`tcpi_state` of a connection that is gone, and of one whose other side has ended its stream (linux/tcp_states.h)."""

STALL_CHECKS = 4
"""How often within the write timeout a caller is looked at that has bytes to take."""


class Connection:
    """What HttpProtocol stands on: an asyncio.Protocol in all but name, for with a base of Python's own its compiled
    form would be slow (setup.py). `leaving`: the last byte was written, what still comes is thrown away."""

    __slots__ = ("_patience_seconds", "_reading_paused", "_stalled_since", "_taken", "_waiting_since", "_writable",
                 "_write_timeout_seconds", "_written", "deadline", "leaving", "loop", "read_deadline", "transport",
                 "write_deadline", "write_paused")  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, write_timeout_seconds: float) -> None:
        self.loop = loop
        self.deadline = self.read_deadline = self.write_deadline = NEVER
        self.leaving = self.write_paused = self._reading_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._write_timeout_seconds = write_timeout_seconds
        self._written = self._taken = 0
        self._stalled_since = 0.0
        self._patience_seconds = self._waiting_since = 0.0

    # --- writing ----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self.transport.write(data)

    def writelines(self, pieces: list[bytes]) -> None:
        self._written += sum(map(len, pieces))
        self.transport.writelines(pieces)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    async def drain(self) -> None:
        """Wait until the caller has taken enough of what was written, or is gone."""
        while self.write_paused:
            if self._writable is None:
                self._writable = self.loop.create_future()
            await asyncio.shield(self._writable)

    def watch_writing(self) -> None:
        """A response is on its way in pieces: from now on see to it that the caller takes them."""
        if self.write_deadline == NEVER:
            self.write_deadline = self.loop.time() + self._write_timeout_seconds / STALL_CHECKS
            self.deadline = min(self.deadline, self.write_deadline)

    # --- reading ----------------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()
            self.look_again()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    # --- deadlines --------------------------------------------------------------------------------------------------

    def on_deadline(self, now: float) -> None:
        if self.write_deadline <= now and self._is_stalled(now):
            self.abort()
            return
        if self.read_deadline <= now:
            self.read_deadline = NEVER
            self.deadline = self.write_deadline
            if self.leaving and self.transport.get_write_buffer_size():
                # The end of an answer is still on its way; the write deadline sees to it that it moves.
                self.wait_for_bytes(LINGER_SECONDS)
            elif self.leaving:
                self.abort()
            elif not self._reading_paused:
                self.on_silence()
            elif self._has_ended():
                self.abort()
            else:
                self.look_again()
        else:
            self.deadline = min(self.read_deadline, self.write_deadline)

    def wait_for_bytes(self, seconds: float) -> None:
        """`on_silence` is called unless the deadline is moved within `seconds`."""
        self.read_deadline = self.loop.time() + seconds
        self.deadline = min(self.read_deadline, self.write_deadline)

    def wait_for_nothing(self) -> None:
        """It is not the caller's turn to send."""
        self.read_deadline = NEVER
        self.deadline = self.write_deadline

    def wait_for_request(self, seconds: float) -> None:
        """A response was written: the caller has to take it, and may then be idle for `seconds`."""
        now = self.loop.time()
        self.read_deadline = now + seconds
        self.write_deadline = now + self._write_timeout_seconds / STALL_CHECKS
        self.deadline = min(self.read_deadline, self.write_deadline)

    def on_silence(self) -> None:
        """The caller is late with bytes. Overridden."""

    def _is_stalled(self, now: float) -> bool:
        """Whether the caller took no byte of what waits for it within the write timeout."""
        pending = self.transport.get_write_buffer_size()
        if not pending:
            self._stalled_since = 0.0
            self.write_deadline = NEVER
            return False
        self.write_deadline = now + self._write_timeout_seconds / STALL_CHECKS
        taken = self._written - pending - self._kernel_backlog()
        if not self._stalled_since or taken != self._taken:
            self._taken = taken
            self._stalled_since = now
            return False
        return now - self._stalled_since >= self._write_timeout_seconds

    def _kernel_backlog(self) -> int:
        """Bytes that the kernel has from us and the caller not from the kernel. Without them, a slow caller would look
        stalled: megabytes of room come free before the kernel asks for more. 0 where the system does not tell."""
        connection = self.transport.get_extra_info("socket")
        try:
            return int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except OSError:
            return 0

    def look_again(self) -> None:
        """Nobody reads from the caller: look now and then whether it is still there."""
        self.wait_for_bytes(PAUSED_LOOK_SECONDS)

    def _has_ended(self) -> bool:
        """Whether the caller has closed or reset the connection, as far as the kernel has heard. False where the system
        does not tell, and for an end that waits behind more bytes than the kernel has room for."""
        connection = self.transport.get_extra_info("socket")
        try:
            state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except (AttributeError, OSError):
            return False
        return state == TCP_CLOSE or (state == TCP_CLOSE_WAIT and not self.may_half_close)

    @property
    def may_half_close(self) -> bool:
        """Whether the end of the caller's stream is not yet its leaving. Overridden."""
        return False

    def have_patience(self, seconds: float) -> None:
        """With a body that begins. Waiting uses it up, and bytes restore it."""
        self._patience_seconds = seconds
        self._waiting_since = 0.0

    def begin_waiting(self) -> None:
        self._waiting_since = self.loop.time()
        self.wait_for_bytes(self._patience_seconds)

    def end_waiting(self, received: int, pace: int, most_seconds: float) -> None:
        """The bytes `received` restore as much patience as they may take at the slowest pace, in bytes per second; 0:
        any pace will do."""
        if self._waiting_since:
            self._patience_seconds -= self.loop.time() - self._waiting_since
            self._waiting_since = 0.0
            regained = received / pace if pace else NEVER
            self._patience_seconds = min(self._patience_seconds + regained, most_seconds)

    # --- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close once all is written; the caller has nothing more to say."""
        self._begin_to_leave()
        if not self.transport.is_closing():
            self.wait_for_nothing()
            self.transport.close()

    def linger(self) -> None:
        """Close once all is written and the caller has closed too. Closing over unread bytes would be a reset, and
        that may take the answer with it (RFC 9112 section 9.6)."""
        self._begin_to_leave()
        if not self.transport.is_closing():
            self.resume_reading()
            self.transport.write_eof()
            self.wait_for_bytes(LINGER_SECONDS)

    def abort(self) -> None:
        """Close at once, dropping what is not written."""
        self._begin_to_leave()
        self.transport.abort()

    def reset(self) -> None:
        """Close so that the caller can't take it for the regular end of what was sent."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def _begin_to_leave(self) -> None:
        self.leaving = True
        self.write_deadline = self.loop.time() + self._write_timeout_seconds / STALL_CHECKS


def address_of(name: Any) -> tuple[str, int] | None:
    """Host and port of a socket's name; None for one that has no port."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
