"""What the connections of one listening socket share: the application, the limits, the clock, the books."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from uvicorn.server import ServerState

from gateway.deadlines import NEVER
from gateway.errors import GatewayError, Overloaded
from gateway.server.intake import Intake
from gateway.server.protocol import HttpProtocol
from gateway.server.response import ResponseHead

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from starlette.types import ASGIApp
    from uvicorn import Config

    from gateway.deadlines import Deadlines
    from gateway.server.exchange import Exchange
    from gateway.server.limits import Limits


class Listener:
    """Makes the protocol of each connection. An instance is what uvicorn's `Config(http=...)` and
    `loop.create_server` want; it must be made inside the running loop and closed with it.

    Connections are counted per listener: a flood of callers does not shut the admin listener.
    """

    def __init__(self, app: ASGIApp, limits: Limits, deadlines: Deadlines) -> None:
        self.app = app
        self.limits = limits
        self.deadlines = deadlines
        self.loop = asyncio.get_running_loop()
        self.server_state = ServerState()
        self.app_state: dict[str, Any] = {}
        self.connections_open = 0
        self.refusals: dict[str, int] = defaultdict(int)
        """What the application never heard of, or was stopped for: the problem's slug, and how often."""
        self.intake = Intake(self.loop, limits.calls_max, lambda: len(self.server_state.tasks))
        self.always: Collection[bytes] = ()
        """Paths that are answered however much there is to do. Set by the application."""
        self.draining = False
        self.date_line = b""
        self.deadline = NEVER
        self._held: list[Exchange] = []
        self._overloaded: dict[tuple[bool, bool], bytes] = {}
        self.on_deadline(0)
        deadlines.watch(self)

    def __call__(
        self,
        config: Config | None = None,  # noqa: ARG002 - uvicorn's signature
        server_state: ServerState | None = None,
        app_state: dict[str, Any] | None = None,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Any:  # an HttpProtocol, which is an asyncio.Protocol in all but name
        if server_state is not None:
            self.server_state = server_state
        if app_state is not None:
            self.app_state = app_state
        return HttpProtocol(self)

    def on_deadline(self, now: float) -> None:  # noqa: ARG002 - the wall clock is what counts here
        """Write the date anew at each full second, so that no response has to look at the clock for it."""
        seconds = time.time()
        self.date_line = b"date: " + formatdate(seconds, usegmt=True).encode("ascii")
        self._overloaded.clear()
        self.deadline = self.loop.time() + 1 - seconds % 1

    def overloaded(self, to_head: bool, keep_alive: bool) -> bytes:
        """The answer to a request for which there is no room, made once a second."""
        answer = self._overloaded.get((to_head, keep_alive))
        if answer is not None:
            self.refusals[Overloaded.slug] += 1
            return answer
        answer = self.refusal(Overloaded("Try again later."), to_head=to_head, keep_alive=keep_alive)
        self._overloaded[to_head, keep_alive] = answer
        return answer

    def refusal(self, error: GatewayError, *, to_head: bool, keep_alive: bool) -> bytes:
        """The answer to a request that the application never hears of."""
        self.refusals[error.slug] += 1
        status, headers, body = error.response("")
        head = ResponseHead(status, headers, self.date_line)
        if not keep_alive:
            head.lines.append(b"connection: close")
        return head.render() if to_head else head.render() + body

    def hold_head(self, exchange: Exchange) -> None:
        """Send the exchange's response head in the loop's next round, unless its body has taken it along by then.

        One callback serves all heads of a round: cheaper than one each, and no head waits for a slow first byte.
        """
        if not self._held:
            self.loop.call_soon(self._send_held_heads)
        self._held.append(exchange)

    def gauges(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        yield "connections_open", (), self.connections_open
        yield "requests_waiting", (), self.intake.waiting
        yield "overloaded", (), int(self.intake.is_overloaded)

    def close(self) -> None:
        self.deadlines.unwatch(self)

    def _send_held_heads(self) -> None:
        held, self._held = self._held, []
        for exchange in held:
            exchange.flush_head()
