"""The life of a metered call, from the parsed head to the last byte of the answer.

    match the route → read the key → refuse what is too large → take the credits (durable)
    → send upstream → the response head decides: settle or release (durable) → relay

Two orders matter. The hold is durable before the first byte goes upstream, so no crash serves a call that nobody paid.
The settlement is durable before the first byte of the answer goes back, so a hold found open after a crash is a call
whose caller got nothing, and is released.

A caller who leaves cancels this task: the upstream connection is closed and the hold ends by the route's policy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.credits.provider import CreditsProvider, Hold
from gateway.errors import GatewayError, InternalError, NoRoute, UpstreamError
from gateway.idempotency_key import read_idempotency_key
from gateway.observe.access_log import AccessLog
from gateway.observe.ids import RequestIds
from gateway.observe.metrics import Metrics
from gateway.proxy.body import read_body
from gateway.proxy.call import CALLER_LEFT, KEPT, Call
from gateway.proxy.completion import complete
from gateway.proxy.endings import CLIENT_ABORT, Endings
from gateway.proxy.forwarding import forward, forward_within
from gateway.proxy.headers import HeadReader, RequestHead, check_head, clean_response
from gateway.proxy.once import Apart, Once, keep_answer, kept_headers
from gateway.proxy.own_fields import own_fields, timing
from gateway.proxy.route import Route
from gateway.proxy.routes import RouteTable
from gateway.proxy.settlement import release_word, told_cost
from gateway.proxy.truncation import show_break
from gateway.proxy.websocket import relay_tunnel
from gateway.upstreams.transport import UpstreamRequest, UpstreamResponse

logger = logging.getLogger("gateway.proxy")

HANDED_ON = "handed-on"


class Endpoint:
    """The data plane: a raw ASGI app for every path that is a route.

    `fallback` answers for the paths that are none, and keeps its own records; without one they are 404.
    """

    def __init__(
        self,
        routes: RouteTable,
        provider: CreditsProvider,
        heads: HeadReader,
        ids: RequestIds,
        metrics: Metrics,
        access_log: AccessLog | None = None,
        fallback: ASGIApp | None = None,
        trace: Callable[[Call, Scope, float], None] | None = None,
    ) -> None:
        self._routes = routes
        self._provider = provider
        self._endings = Endings(provider)
        self._heads = heads
        self._ids = ids
        self._metrics = metrics
        self._access_log = access_log
        self._fallback = fallback
        self._trace = trace
        self._apart = Apart()

    def swap(
        self, routes: RouteTable, heads: HeadReader, access_log: AccessLog | None, fallback: ASGIApp | None
    ) -> None:
        """Calls that begin from now on go by these; those in flight keep the route that they have."""
        self._routes = routes
        self._heads = heads
        self._access_log = access_log
        self._fallback = fallback

    async def __call__(self, scope: Scope, receive: Receive, send: Send, once: Once | None = None) -> None:
        call = Call(self._ids.next(), perf_counter(), once)
        answering: Coroutine[Any, Any, None] | None = None
        try:
            try:
                route = self._routes.match(scope["method"], scope["raw_path"]) if once is None else once.route
                call.route = route
                if route.idempotency is not None and once is None and await self._do_once(call, scope, receive, send):
                    return
                response = await self._answer(call, route, scope, receive)
                await self._relay(call, route, response, receive, send)
            except OSError:
                pass  # The caller has left: CallerGone from its body, or what `send` raises. No other gets here.
            except Exception as error:  # noqa: BLE001 - a defect of ours is answered as one, and its call is free
                answering = self._answer_failure(call, error, scope, receive, send)
            if answering is not None:  # awaited when the error is handled no more (setup.py says why)
                await answering
        finally:
            self._record(call, scope)

    async def _answer_failure(self, call: Call, failure: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(failure, NoRoute) and self._fallback is not None:
            call.verdict = HANDED_ON
            await self._fallback(scope, receive, send)
        elif isinstance(failure, GatewayError):
            await self._refuse(call, failure, send)
        else:
            logger.error("%s: a defect", call.request_id, exc_info=failure)
            await self._refuse(call, InternalError("The log has more under this request id."), send)

    async def _do_once(self, call: Call, scope: Scope, receive: Receive, send: Send) -> bool:
        """With an Idempotency-Key, all of it in a task of its own, which keeps the records. False without one."""
        key = read_idempotency_key(scope["headers"])
        if key is None or call.route is None:
            return False
        once = Once(key, call.route)
        call.route, call.verdict = None, HANDED_ON
        await self._apart.run(once, self(scope, receive, once.patient(send), once))
        return True

    async def aclose(self) -> None:
        """After the last call: end those whose callers have left. Before what they need is closed."""
        await self._apart.aclose()

    async def _answer(self, call: Call, route: Route, scope: Scope, receive: Receive) -> UpstreamResponse:
        """Take the credits, forward, and settle or release by the response head. The response is not yet relayed."""
        head = self._heads.read(scope["headers"], scope["client"], scope["scheme"], keyed=not route.is_public)
        if route.address_limit is not None:
            call.address_quota = route.address_limit.take(self._heads.address_of(head, scope["client"]))
        check_head(head, route.body_max_bytes, scope["query_string"])
        # A body that is broken or never comes costs nothing: its beginning is read before credits are taken.
        # Not so for Expect: 100-continue, which asks for the key to be checked before the body is sent.
        body: Any = b""
        if call.once is not None:
            body = await call.once.begin(head, scope, receive)
        elif head.has_body and not head.expects_continue:
            body = await read_body(receive, head.content_length, route.body_max_bytes)
        if route.concurrency is not None:
            route.concurrency.begin(head.api_key)
            call.counted_key = head.api_key
        call.asked_at = perf_counter()
        if call.once is not None:
            earlier = await self._claim(call, route, call.once, head.api_key)
            if earlier is not None:
                return earlier
        elif not route.is_public:
            call.hold = await self._provider.hold(head.api_key, route.cost, route.name, call.request_id, route.policy)
        call.held_at = perf_counter()
        request = UpstreamRequest(scope["method"].encode("ascii"), b"", head.headers, body, head.content_length)
        response = await self._send(call, route, request, head, scope, receive)
        call.upstream_at = perf_counter()
        if call.hold is not None:
            await self._decide(call, route, call.hold, request, response)
        return response

    async def _claim(self, call: Call, route: Route, once: Once, api_key: bytes) -> UpstreamResponse | None:
        """Take the credits, unless the call was there before: then the answer that it got."""
        call.hold = await self._provider.hold(
            api_key, route.cost, route.name, call.request_id, route.policy, once.claim
        )
        call.held_at = call.upstream_at = perf_counter()
        try:
            earlier = await once.repeat(self._provider.find_answer)
        finally:
            if once.outcome:
                route.metrics.repeat(once.outcome)
        if earlier is not None:
            call.verdict = "replayed"
        return earlier

    async def _send(
        self, call: Call, route: Route, request: UpstreamRequest, head: RequestHead, scope: Scope, receive: Receive
    ) -> UpstreamResponse:
        """Forward, and end the hold if there is no answer."""
        try:
            complete(call, route, request, head, scope, self._ids)
            if head.has_body and head.expects_continue:
                request.body = await read_body(receive, head.content_length, route.body_max_bytes)
            if route.timeout_seconds is not None:
                return await forward_within(route.timeout_seconds, route, request)
            return await forward(route, request)
        except BaseException as error:  # noqa: BLE001 - it is raised again, when the hold has ended
            ending = self._endings.unanswered(call, route, request, error)
        raise await ending

    async def _decide(
        self, call: Call, route: Route, hold: Hold, request: UpstreamRequest, response: UpstreamResponse
    ) -> None:
        """Settle or release by the response head, durably, before any of it reaches the caller."""
        try:
            word = release_word(route, request, response.status)
            if word:
                await self._endings.end(call, 0, word, f"upstream answered {response.status}")
                return
            cost: int | None = route.cost
            if route.settle_header:
                cost = told_cost(route, [*response.headers, *response.trailers], call.request_id)
            if call.once is not None:
                call.once.look_at(response, kept_headers(response, route.settle_header))
            if response.body is None and (cost is None or CLIENT_ABORT in route.release_on):
                await self._endings.keep(call, hold, route.cost if cost is None else cost)
            else:
                await self._endings.end(call, route.cost if cost is None else cost, "")
            return
        except BaseException as error:  # noqa: BLE001 - it is raised again, when the hold has ended
            ending = self._endings.undecided(call, route, response, error)
        raise await ending

    async def _relay(self, call: Call, route: Route, response: UpstreamResponse, receive: Receive, send: Send) -> None:
        call.status = response.status
        headers = clean_response(response.headers, route.settle_header, own_fields(call))
        if route.shows_timing:
            headers += timing(call)
        try:
            call.response_started = True
            if response.status == 101:
                await relay_tunnel(response, headers, receive, send)
            else:
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                if response.body is not None:
                    call.bytes_sent = len(response.body)
                    await send({"type": "http.response.body", "body": response.body})
                else:
                    await self._relay_stream(call, route, response, send)
            if call.verdict == KEPT:
                await self._endings.end_kept(call, route, response.trailers)
            return
        except UpstreamError as error:
            logger.warning("%s: the upstream's answer broke off: %s", call.request_id, error.cause or error.detail)
            ending = None
        except BaseException as error:  # noqa: BLE001 - it is raised again, when the hold has ended
            ending = self._endings.broken(call, route, response, error)
        if ending is not None:
            raise await ending
        if call.verdict == KEPT:
            await self._endings.end_kept(call, route, [])
        await show_break(send)

    async def _relay_stream(self, call: Call, route: Route, response: UpstreamResponse, send: Send) -> None:
        once = call.once
        while chunk := await response.read():
            call.bytes_sent += len(chunk)
            if once is not None:
                once.take(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if once is not None and once.keep_pieces(response.status, kept_headers(response, route.settle_header)):
            await self._keep_answer(call, once)
        await send({"type": "http.response.body", "body": b""})
        call.upstream_at = perf_counter()

    async def _keep_answer(self, call: Call, once: Once) -> None:
        """Before the answer's end goes out: whoever has seen it can have it again. Where the cost is still to be
        settled, that takes the answer along."""
        if call.hold is not None and call.verdict != KEPT:
            await keep_answer(partial(self._provider.keep_answer, call.hold, once.claim), call.request_id)

    async def _refuse(self, call: Call, error: GatewayError, send: Send) -> None:
        if error.cause:
            logger.warning("%s: %s: %s", call.request_id, error.slug, error.cause)
        if call.response_started:
            await show_break(send)
            return
        call.status, headers, body = error.response(call.request_id)
        call.bytes_sent = len(body)
        call.verdict = call.verdict or f"refused:{error.slug}"
        self._metrics.refuse(error.slug)
        try:
            await send({"type": "http.response.start", "status": call.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        except OSError:
            call.status = CALLER_LEFT

    def _record(self, call: Call, scope: Scope) -> None:
        now = perf_counter()
        route = call.route
        if call.counted_key and route is not None and route.concurrency is not None:
            route.concurrency.end(call.counted_key)
        if route is not None:
            charged = call.cost if call.verdict == "settled" else 0
            route.metrics.observe(
                scope["method"],
                call.status,
                now - call.started_at,
                call.upstream_at - call.held_at if call.upstream_at else 0.0,
                call.held_at - call.asked_at if call.held_at else 0.0,
                charged,
            )
            if call.released:
                route.metrics.release(call.released, route.cost)
        elif call.verdict is HANDED_ON:
            return
        if self._trace is not None:
            self._trace(call, scope, now)
        if self._access_log is not None:
            self._access_log.add(
                call.request_id,
                scope["method"],
                scope["raw_path"],
                call.status,
                route.name if route is not None else "",
                call.hold.key_id if call.hold is not None else "",
                call.cost,
                call.verdict,
                call.bytes_sent,
                now - call.started_at,
                call.upstream_at - call.held_at if call.upstream_at else 0.0,
            )
