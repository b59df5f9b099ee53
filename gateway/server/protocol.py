"""One caller's connection: HTTP/1.1 requests read strictly in order, each deadline kept.

States, told by three attributes:

    exchange is None, not leaving   between requests, or inside a head (`_unparsed`)
    exchange                        a request runs; its body is decoded, what follows it is held back unparsed
    turned away                     a request waits to be told that there is no room (intake.py)
    leaving                         the last byte was written: what still comes is thrown away, then the close

Nothing after a request is looked at before its response is complete. A body, a WebSocket or a second request that
was sent too early therefore can't be misread: it is parsed in its turn, or never. Nor is it looked at while the caller
leaves so much untaken that writing is paused: who asks on and on without reading gets one answer ahead, not all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import unquote

from gateway.errors import GatewayError, InternalError, Overloaded, RequestTimeout
from gateway.server.chunked import ChunkedBody
from gateway.server.connection import Connection, address_of
from gateway.server.exchange import ASGI, Exchange
from gateway.server.head import CRLF, END_OF_HEAD, read_head, refuse_too_long, refuse_unfinished
from gateway.server.intake import is_plain
from gateway.server.limits import BUFFER_MAX_BYTES, FRESH_GRACE_SECONDS, IDLE_GRACE_SECONDS

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Scope

    from gateway.server.head import Head, KnownLines
    from gateway.server.listener import Listener

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

logger = logging.getLogger(__name__)


class HttpProtocol(Connection):
    """Made by a Listener, one for each connection."""

    __slots__ = ("_body_remaining", "_chunks", "_client", "_known_lines", "_requests", "_server",
                 "_turned_away", "_unparsed", "draining", "exchange", "listener")  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener.loop, listener.limits.write_timeout_seconds)
        self.listener = listener
        self.exchange: Exchange | None = None
        self.draining = listener.draining
        self._known_lines: KnownLines = {}
        self._unparsed = bytearray()
        self._body_remaining = 0
        self._chunks: ChunkedBody | None = None
        self._turned_away: tuple[int, bool, bool] | None = None
        self._requests = 0
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None

    # --- from the loop ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        listener, limits = self.listener, self.listener.limits
        listener.connections_open += 1
        listener.server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn's set of its own protocols
        listener.deadlines.watch(self)
        excess = listener.connections_open - limits.connections_max
        if excess > limits.turned_away_max:
            listener.refusals[Overloaded.slug] += 1
            transport.abort()
        elif excess > 0:
            self._refuse(Overloaded("Too many connections are open."))
        else:
            self._client = address_of(transport.get_extra_info("peername"))
            self._server = address_of(transport.get_extra_info("sockname"))
            self.wait_for_bytes(limits.head_timeout_seconds)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            if exchange.tunnel:
                self._feed(exchange, data, complete=False)
            elif not exchange.body_complete:
                self._read_body(exchange, data)
            else:
                self._hold_back(data)
        elif self.leaving:
            pass
        elif self.write_paused or self._turned_away is not None:
            self._hold_back(data)
        elif self._unparsed:
            self._read_more_of_head(data)
        else:
            self._read_head(data)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unparsed and self.exchange is None and self._turned_away is None:
            self._read_held_back()

    def eof_received(self) -> bool:
        """The end of a caller's stream counts as its leaving (a half-closed caller gets no answer); a tunnel's
        other direction stays open."""
        exchange = self.exchange
        if exchange is not None:
            if exchange.tunnel:
                exchange.end()
                return True
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it was lost
        listener = self.listener
        listener.connections_open -= 1
        listener.server_state.connections.discard(self)
        listener.deadlines.unwatch(self)
        self._begin_to_leave()
        self.resume_writing()

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read_head(self, data: bytes, *, admitted: bool = False) -> None:
        start = 2 if data.startswith(CRLF) else 0  # one empty line before a request is forgiven (RFC 9112 2.2)
        end = data.find(END_OF_HEAD, start)
        if end < 0:
            self._read_more_of_head(data)
            return
        listener = self.listener
        admitted = admitted or listener.intake.admits()
        if not admitted and not start and is_plain(data, end, listener.always):
            self._turn_away(data, len(data), to_head=False, keep_alive=True)
            return
        try:
            if end + 4 > listener.limits.head_max_bytes:
                refuse_too_long(data[: end + 4], listener.limits)
            head = read_head(data[start:end], listener.limits, self._known_lines)
            self._start_exchange(head, data, end, admitted=admitted)
        except GatewayError as error:
            self._refuse(error, to_head=data.startswith(b"HEAD ", start))

    def _read_more_of_head(self, data: bytes) -> None:
        """Gather a head that comes in pieces. What can't become one is refused before its deadline."""
        unparsed = self._unparsed
        seen = len(unparsed)
        if not seen and self._requests:
            self.wait_for_bytes(self.listener.limits.head_timeout_seconds)
        unparsed += data
        if unparsed.find(END_OF_HEAD, max(seen - 3, 2 if unparsed.startswith(CRLF) else 0)) >= 0:
            whole = bytes(unparsed)
            unparsed.clear()
            self._read_head(whole)
            return
        try:
            refuse_unfinished(unparsed[:seen], data)
            refuse_too_long(unparsed, self.listener.limits)
        except GatewayError as error:
            self._refuse(error, to_head=unparsed.startswith((b"HEAD ", b"\r\nHEAD ")))

    def _start_exchange(self, head: Head, data: bytes, end: int, *, admitted: bool) -> None:
        method, path, query, http_1_1, headers, framing = head
        rest = data[end + 4 :]
        body, complete = b"", True
        if framing.chunked:
            self._chunks = ChunkedBody(self.listener.limits)
            body = self._chunks.feed(rest)
            complete = self._chunks.complete
            rest = self._chunks.rest
        elif framing.content_length:
            body, rest = rest[: framing.content_length], rest[framing.content_length :]
            self._body_remaining = framing.content_length - len(body)
            complete = not self._body_remaining
        listener = self.listener
        if not admitted and path not in listener.always:
            keep_alive = framing.keep_alive and complete
            self._turn_away(data, len(data) - len(rest), to_head=method == "HEAD", keep_alive=keep_alive)
            return
        text = path.decode("ascii")
        scope: Scope = {
            "type": "http",
            "asgi": ASGI,
            "http_version": "1.1" if http_1_1 else "1.0",
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "method": method,
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": headers,
        }
        if listener.app_state:
            scope["state"] = listener.app_state.copy()
        if framing.tunnel:
            scope["extensions"] = {"gateway.tunnel": {}}
        self._requests += 1
        self.exchange = exchange = Exchange(self, scope, method, framing, body, complete)
        if complete:
            self.wait_for_nothing()
        else:
            self.have_patience(listener.limits.body_idle_timeout_seconds)
            self._wait_for_body(exchange)
        if rest:
            self._hold_back(rest)
        exchange.task = task = self.loop.create_task(exchange.run(listener.app))
        listener.server_state.tasks.add(task)

    def _turn_away(self, data: bytes, length: int, *, to_head: bool, keep_alive: bool) -> None:
        """There is no room now for this request, of which `length` bytes are here: all, if `keep_alive`."""
        self._turned_away, self._requests = (length, to_head, keep_alive), self._requests + 1
        self._chunks = None
        self.wait_for_nothing()
        self._hold_back(data)
        if not keep_alive:
            self.pause_reading()  # what is still to come is due when there is room
        self.listener.intake.hold(self)

    def _read_body(self, exchange: Exchange, data: bytes) -> None:
        if self._chunks is not None:
            try:
                body = self._chunks.feed(data)
            except GatewayError as error:
                self._refuse_running(exchange, error)
                return
            self._feed(exchange, body, complete=self._chunks.complete)
            rest = self._chunks.rest
        else:
            remaining = self._body_remaining
            body, rest = (data, b"") if len(data) <= remaining else (data[:remaining], data[remaining:])
            self._body_remaining = remaining - len(body)
            self._feed(exchange, body, complete=not self._body_remaining)
        if rest:
            self._hold_back(rest)

    def _feed(self, exchange: Exchange, body: bytes, *, complete: bool) -> None:
        if not exchange.feed(body, complete=complete) and not complete:
            self.pause_reading()
        self._wait_for_body(exchange, len(body))

    def _hold_back(self, data: bytes) -> None:
        """Bytes after the running request wait unparsed; too many of them wait in the caller's socket."""
        self._unparsed += data
        if len(self._unparsed) > BUFFER_MAX_BYTES:
            self.pause_reading()

    def _read_held_back(self, *, admitted: bool = False) -> None:
        data = bytes(self._unparsed)
        self._unparsed.clear()
        self.resume_reading()
        self._read_head(data, admitted=admitted)

    # --- for the exchange -------------------------------------------------------------------------------------------

    def on_body_taken(self) -> None:
        """The application has taken what was unread."""
        if self._reading_paused and self.exchange is not None and not self.leaving:
            if len(self._unparsed) <= BUFFER_MAX_BYTES:
                self.resume_reading()
            self._wait_for_body(self.exchange)

    def write_continue(self) -> None:
        self.write(CONTINUE)
        if self.exchange is not None:
            self._wait_for_body(self.exchange)

    def open_tunnel(self, exchange: Exchange) -> None:
        """From here on bytes are passed as they are, those held back first."""
        held = bytes(self._unparsed)
        self._unparsed.clear()
        self.resume_reading()
        self.wait_for_nothing()
        if held:
            self._feed(exchange, held, complete=False)

    def on_response_complete(self, exchange: Exchange) -> None:
        self.listener.server_state.total_requests += 1
        self.exchange = None
        self._chunks = None
        if not exchange.keep_alive or self.draining:
            if (exchange.body_complete or exchange.ended) and not self._unparsed:
                self.close()
            else:
                self.linger()
            return
        self._wait_for_next()

    def _wait_for_next(self) -> None:
        self.wait_for_request(self.listener.limits.keep_alive_timeout_seconds)
        if self._unparsed:
            if not self.write_paused:
                self._read_held_back()
            elif self._reading_paused:
                self.look_again()

    def on_turned_away(self) -> None:
        """Now there is time to say that there is no room."""
        turned_away, self._turned_away = self._turned_away, None
        if turned_away is None or self.leaving:
            return
        length, to_head, keep_alive = turned_away
        del self._unparsed[:length]
        self.resume_reading()
        keep_alive = keep_alive and not self.draining
        self.write(self.listener.overloaded(to_head, keep_alive))
        self._wait_for_next() if keep_alive else self.linger()

    def on_admitted(self) -> None:
        """There is room after all."""
        if self._turned_away is not None and not self.leaving:
            self._turned_away = None
            self._read_held_back(admitted=True)

    def on_application_failed(self, exchange: Exchange, *, stopped: bool) -> None:
        """The application's task ended without a whole response."""
        if exchange.started:
            self.cut(exchange)
            return
        exchange.gone = True
        exchange.drop_head()
        error = Overloaded("The gateway is stopping.") if stopped else InternalError()
        self._refuse(error, to_head=exchange.method == "HEAD")

    def cut(self, exchange: Exchange) -> None:
        """End a response that is not whole, so that the caller sees it: a framed body lacks its end, and one that is
        delimited by the close gets a reset instead."""
        exchange.gone = True
        if exchange is self.exchange:
            self.exchange = None
            if exchange.scope["http_version"] == "1.0":
                self.reset()
            else:
                self.close()

    @property
    def may_half_close(self) -> bool:
        return self.exchange is not None and self.exchange.tunnel

    # --- deadlines and the end --------------------------------------------------------------------------------------

    def on_silence(self) -> None:
        exchange = self.exchange
        if exchange is not None:
            self._refuse_running(exchange, RequestTimeout("The body stopped coming, or came too slowly."))
        elif self._unparsed and self.write_paused:
            self.look_again()  # it owes us no bytes: it has to take some, and the write deadline sees to that
        elif self._unparsed and not self.draining:
            self._refuse(RequestTimeout("The head took too long."))
        else:
            self.close()

    def shutdown(self) -> None:
        """Drain: what runs is finished and closed. An idle connection is closed as soon as a request that may be on
        its way had the time to come; that one is still answered."""
        self.draining = True
        if self.exchange is not None or self.leaving or self._turned_away is not None:
            return
        if self._unparsed and self.write_paused:
            self.linger()
        else:
            fresh = not self._requests or self._unparsed
            self.wait_for_bytes(FRESH_GRACE_SECONDS if fresh else IDLE_GRACE_SECONDS)

    def _wait_for_body(self, exchange: Exchange, received: int = 0) -> None:
        """The caller is late only while it is its turn: not while nobody reads, nor before `100 Continue`.

        Neither silence nor a trickle (of the body, of what frames it, of trailers) outlasts our patience."""
        limits = self.listener.limits
        self.end_waiting(received, limits.body_min_bytes_per_second, limits.body_idle_timeout_seconds)
        if self._reading_paused:
            self.look_again()
        elif exchange.body_complete or exchange.tunnel or exchange.expects_continue:
            self.wait_for_nothing()
        else:
            self.begin_waiting()

    def _refuse_running(self, exchange: Exchange, error: GatewayError) -> None:
        """The request turns out to be faulty while it runs: stop the application, tell the caller if possible."""
        if exchange.started:
            self.cut(exchange)
            exchange.leave()
        else:
            exchange.leave()
            exchange.drop_head()
            self._refuse(error, to_head=exchange.method == "HEAD")

    def _refuse(self, error: GatewayError, *, to_head: bool = False) -> None:
        logger.debug("refused with %d: %s", error.status, error)
        self.write(self.listener.refusal(error, to_head=to_head, keep_alive=False))
        self.exchange = None
        self.linger()

    def _begin_to_leave(self) -> None:
        super()._begin_to_leave()
        self._unparsed.clear()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.leave()
