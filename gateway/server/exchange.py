"""One request and its response: the ASGI side of a connection.

The contract with the application, beyond ASGI 3:
- A caller who leaves (end of stream, reset, a deadline) cancels the application's task while the response is not
  complete, and `receive` returns `http.disconnect`. What must be finished is shielded by the application.
- Once the response is complete the task is left alone, and the next request may run beside what remains of it.
- `scope["extensions"]["gateway.tunnel"]` offers a WebSocket upgrade: answered by 101, the rest of the exchange is raw
  bytes both ways, and the caller's end of stream is `http.disconnect` without a cancellation.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from gateway.server.failure import CallerLeft
from gateway.server.limits import BUFFER_MAX_BYTES
from gateway.server.response import ResponseHead

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

    from gateway.server.framing import Framing
    from gateway.server.protocol import HttpProtocol

ASGI = {"version": "3.0", "spec_version": "2.4"}
JOIN_MAX_BYTES = 16_384
"""Up to this, copying pieces together is cheaper than handing them to the socket one by one."""

UNMEASURED, NO_BODY = -1, -2
"""Instead of the bytes still to send: the length was not told; the response has no body whatever is sent."""

logger = logging.getLogger(__name__)


class Exchange:
    """`body_complete`: the request is in. `started`: bytes of the response are out. `complete`: all of them are.
    `gone`: the caller is not there any more. `tunnel`: 101 was sent. `ended`: the caller sends no more into it."""

    __slots__ = ("_begun", "_chunked", "_expects_continue", "_head", "_parts", "_receivers", "_to_send", "_unread",
                 "body_complete", "complete", "ended", "framing", "gone", "keep_alive", "method", "protocol", "scope",
                 "started", "task", "tunnel")  # fmt: skip

    def __init__(
        self, protocol: HttpProtocol, scope: Scope, method: str, framing: Framing, body: bytes, body_complete: bool
    ) -> None:
        self.protocol = protocol
        self.scope = scope
        self.method = method
        self.framing = framing
        self.keep_alive = framing.keep_alive
        self.body_complete = body_complete
        self.started = self.complete = self.gone = self.tunnel = self.ended = False
        self.task: asyncio.Task[None] | None = None
        self._begun = False
        self._parts: list[bytes] | None = [body] if body or body_complete else None
        self._unread = len(body)
        self._expects_continue = framing.expects_continue and not body_complete
        self._receivers: list[asyncio.Future[None]] | None = None
        self._head: bytes | None = None
        self._to_send = UNMEASURED
        self._chunked = False

    # --- the request ------------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        while self._parts is None and not (self.gone or self.complete or self.ended):
            if self._expects_continue:
                self._expects_continue = False
                if not self.started and self._head is None:
                    self.protocol.write_continue()
            await self._wait_for_news()
        parts, self._parts = self._parts, None
        if parts is None or self.gone or self.complete:
            return {"type": "http.disconnect"}
        if self._unread:
            self._unread = 0
            self.protocol.on_body_taken()
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return {"type": "http.request", "body": body, "more_body": self.tunnel or not self.body_complete}

    def feed(self, body: bytes, *, complete: bool) -> bool:
        """More of the request's body. False when so much is unread that the socket should be left alone."""
        self._expects_continue = False
        self.body_complete = complete
        if self._parts is None:
            if body or complete:
                self._parts = [body]
        elif body:
            self._parts.append(body)
        self._unread += len(body)
        self._wake()
        return self._unread <= BUFFER_MAX_BYTES

    def leave(self) -> None:
        """The caller is gone."""
        self.gone = True
        self._wake()
        self.cancel()

    def cancel(self, reason: str | None = None) -> None:
        """Stop the application; `reason` is given where that is not the caller's leaving."""
        if self.task is not None:
            # A task that has not begun never reaches the `finally` of `run`.
            if not self._begun:
                self.protocol.listener.server_state.tasks.discard(self.task)
            self.task.cancel(reason)

    def end(self) -> None:
        """The caller sends no more into the tunnel; what it has sent is still to be read."""
        self.ended = True
        self._wake()

    @property
    def expects_continue(self) -> bool:
        """The caller sends no body before it is told to."""
        return self._expects_continue

    async def _wait_for_news(self) -> None:
        waiter = self.protocol.loop.create_future()
        if self._receivers is None:
            self._receivers = []
        self._receivers.append(waiter)
        await waiter

    def _wake(self) -> None:
        if self._receivers is not None:
            waiters, self._receivers = self._receivers, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # --- the response -----------------------------------------------------------------------------------------------

    async def send(self, message: Message) -> None:
        if self.gone:
            raise CallerLeft("the caller has left")
        kind = message["type"]
        if kind == "http.response.body" and (self.started or self._head is not None) and not self.complete:
            more = message.get("more_body", False)
            self._send_body(message.get("body", b""), more=more)
            # The last piece is not waited for: the connection takes no further request before it is taken.
            if more and self.protocol.write_paused:
                await self.protocol.drain()
        elif kind == "http.response.start" and not self.started and self._head is None:
            self._start(message["status"], message.get("headers", ()))
        else:
            raise RuntimeError(f"{kind} is out of order")

    def flush_head(self) -> None:
        """Send a head whose body keeps it waiting."""
        if self._head is not None and not self.gone:
            head, self._head = self._head, None
            self.started = True
            self.protocol.write(head)

    def drop_head(self) -> None:
        """Forget a head that was not sent: another answer takes its place."""
        self._head = None

    def _start(self, status: int, headers: Any) -> None:
        protocol = self.protocol
        head = ResponseHead(status, headers, protocol.listener.date_line)
        if status == 101:
            if not self.framing.tunnel:
                raise RuntimeError("101 was not asked for")
            self._head = head.render()
            self._open_tunnel()
            return
        if status < 200:
            raise RuntimeError(f"{status} is no final status")
        keep_alive = self.keep_alive and self.body_complete and not head.close and not protocol.draining
        length = head.content_length
        if self.method == "HEAD" or status in (204, 304):
            if status == 204 and length is not None:
                head.drop_length()
            self._to_send = NO_BODY
        elif length is not None:
            self._to_send = length
        elif self.scope["http_version"] == "1.1":
            self._chunked = True
            head.lines.append(b"transfer-encoding: chunked")
        else:
            keep_alive = False
        if not keep_alive:
            self.keep_alive = False
            head.lines.append(b"connection: close")
        self._head = head.render()
        protocol.listener.hold_head(self)

    def _open_tunnel(self) -> None:
        self.tunnel = True
        self.keep_alive = False
        self._parts = None
        self._unread = 0
        self.flush_head()
        self.protocol.open_tunnel(self)

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._to_send >= 0:
            self._measure(body, more=more)
        elif self._to_send == NO_BODY:
            body = b""
        pieces = [body] if body else []
        if self._chunked:
            if body:
                pieces = [b"%x\r\n" % len(body), body, b"\r\n" if more else b"\r\n0\r\n\r\n"]
            elif not more:
                pieces = [b"0\r\n\r\n"]
        if self._head is not None:
            pieces.insert(0, self._head)
            self._head = None
            self.started = True
        protocol = self.protocol
        if len(body) <= JOIN_MAX_BYTES:
            if pieces:
                protocol.write(b"".join(pieces))
        else:
            protocol.writelines(pieces)
        if more:
            protocol.watch_writing()
        else:
            self.complete = True
            self._wake()
            protocol.on_response_complete(self)

    def _measure(self, body: bytes, *, more: bool) -> None:
        """Hold the application to the Content-Length it gave; a caller must see that a body is not whole."""
        left = self._to_send - len(body)
        if left < 0 or (left > 0 and not more):
            self.protocol.cut(self)
            raise RuntimeError("the response body and its content-length differ")
        self._to_send = left

    # --- the application's task -------------------------------------------------------------------------------------

    async def run(self, app: ASGIApp) -> None:
        """Call the application, and see to it that the caller gets a whole answer or sees that it is not."""
        stopped = False
        self._begun = True
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            stopped = True
        except CallerLeft:
            pass
        except Exception:
            logger.exception("the application failed")
        finally:
            if self.task is not None:
                self.protocol.listener.server_state.tasks.discard(self.task)
        if not self.complete and not self.gone:
            self.protocol.on_application_failed(self, stopped=stopped)
