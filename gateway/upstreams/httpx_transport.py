"""The other way to an upstream: httpx, for HTTP/2 and outbound proxies. Not for the hot path.

httpcore's connection pool loses connections for good when a request is cancelled inside it. So each request runs in
an owner task that nobody cancels: a caller who leaves detaches, its socket is shut down, and the owner finds that out.
(HTTP/2 shares its socket: there the owner goes on to the head or its time-out.)

httpcore also keeps bytes that came behind a response and gives them to the next request on that connection, which
would be another caller's. So HTTP/1.1 connections are never reused here.

What it can't do: trailers (httpcore drops those of HTTP/1.1, so `trailers` stays empty), upgrades, obs-fold and
repeated equal Content-Length fields (h11 mends them before we see them).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from gateway.errors import BadRequest, BadUpstreamResponse, NoHealthyTarget
from gateway.upstreams.httpx_destination import HttpxDestination
from gateway.upstreams.httpx_errors import translated
from gateway.upstreams.httpx_response import HttpxResponse
from gateway.upstreams.request_head import LENGTH_NEEDED

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterable, AsyncIterator

    import httpx

    from gateway.config.tree import UpstreamSection
    from gateway.deadlines import Deadlines
    from gateway.upstreams.targets import Target
    from gateway.upstreams.transport import Headers, UpstreamRequest

WAITERS_PER_CONNECTION = 4


class HttpxTransport:
    """Implements TargetTransport with httpx.AsyncClient. Raises ValueError for settings that can't be used."""

    def __init__(
        self,
        target: Target,
        settings: UpstreamSection,
        tls: ssl.SSLContext,
        deadlines: Deadlines,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._deadlines = deadlines
        self._loop = loop
        self._destination = HttpxDestination(target, settings, tls)
        self._owners: set[asyncio.Task[None]] = set()
        self._owners_max = settings.connections_max * (1 + WAITERS_PER_CONNECTION)
        self._head_seconds = (
            settings.connection_wait_seconds + settings.connect_timeout_seconds + settings.response_timeout_seconds
        )
        for logger in ("httpx", "httpcore"):
            # At INFO they log whole URLs, query and all.
            logging.getLogger(logger).setLevel(logging.WARNING)

    @property
    def open_count(self) -> int:
        """Exchanges under way, those of callers who left included."""
        return len(self._owners)

    @property
    def load(self) -> int:
        """See TargetTransport.load."""
        return len(self._owners)

    def count_connections(self) -> tuple[int, int, int]:
        """See Transport.count_connections. Of its idle connections and its queue httpx does not tell."""
        return self.open_count, 0, 0

    async def send(self, request: UpstreamRequest) -> HttpxResponse:
        """See Transport.send. Upgrades raise BadUpstreamResponse: this transport has no tunnels."""
        if request.upgrade:
            raise BadUpstreamResponse(cause="transport: httpx can't switch protocols", possibly_executed=False)
        if len(self._owners) >= self._owners_max:
            raise NoHealthyTarget(cause="The queue for a connection is full")
        response = HttpxResponse(request, self._loop)
        owner = self._loop.create_task(self._own(response, request))
        self._owners.add(owner)
        owner.add_done_callback(self._owners.discard)
        self._deadlines.watch(response)
        try:
            await response.wait_head()
        finally:
            self._deadlines.unwatch(response)
        return response

    async def _own(self, response: HttpxResponse, request: UpstreamRequest) -> None:
        """From the request to the response's end, in one task that only `aclose` of the transport cancels."""
        try:
            outgoing = self._request(response, request)
            source = await self._destination.client.send(outgoing, stream=True)
            try:
                # Until now the time to the head counted; httpcore reads this anew for the body.
                outgoing.extensions["timeout"]["read"] = self._settings.idle_timeout_seconds
                response.start(source.status_code, *_head(source))
                if not response.abandoned:
                    await self._relay(source, response)
            finally:
                response.shut_down()
                await source.aclose()
            response.end()
        except asyncio.CancelledError:
            response.fail(NoHealthyTarget(cause="The transport is closed"))
            raise
        except Exception as error:  # noqa: BLE001 - translated here, raised where the caller waits
            response.fail(error if error is response.body_error else translated(error))

    async def _relay(self, source: httpx.Response, response: HttpxResponse) -> None:
        # Not aiter_raw: it gives the connection back before we can close it.
        stream = cast("AsyncIterable[bytes]", source.stream)
        async for chunk in stream:
            if not await response.put(chunk):
                return

    def _request(self, response: HttpxResponse, request: UpstreamRequest) -> httpx.Request:
        settings, destination = self._settings, self._destination
        timeout = {
            "connect": settings.connect_timeout_seconds,
            "read": settings.response_timeout_seconds,
            "write": settings.idle_timeout_seconds,
            "pool": settings.connection_wait_seconds,
        }
        extensions: dict[str, Any] = {
            "timeout": timeout,
            "trace": response.trace,
        }
        if settings.tls.server_name:
            extensions["sni_hostname"] = settings.tls.server_name
        headers = [(b"host", destination.target.authority), *request.headers]
        body = request.body
        content: bytes | AsyncIterator[bytes] | None
        if type(body) is bytes:
            content = body or None
            if not body and request.method in LENGTH_NEEDED:
                headers.append((b"content-length", b"0"))
            response.deadline = self._loop.time() + self._head_seconds
        else:
            content = self._until_sent(response, cast("AsyncIterator[bytes]", body), request.content_length)
            if request.content_length is not None:
                headers.append((b"content-length", b"%d" % request.content_length))
        return destination.request(request.method, request.target, extensions, headers=headers, content=content)

    async def _until_sent(
        self, response: HttpxResponse, body: AsyncIterator[bytes], length: int | None
    ) -> AsyncIterator[bytes]:
        """The body as it is, if it keeps to its length; its end starts the wait for the head."""
        sent = 0
        try:
            async for chunk in body:
                sent += len(chunk)
                if length is not None and sent > length:
                    break
                if chunk:
                    yield chunk
            if length is not None and sent != length:
                raise BadRequest("The body has not the length that was declared.")
        except Exception as error:
            response.body_error = error
            raise
        response.deadline = self._loop.time() + self._head_seconds

    async def aclose(self) -> None:
        for owner in self._owners:
            owner.cancel()
        await asyncio.gather(*self._owners, return_exceptions=True)
        await self._destination.client.aclose()


def _head(source: httpx.Response) -> tuple[Headers, int | None]:
    """Header fields and declared length, checked for what h11 lets through. Raises BadUpstreamResponse."""
    headers = [(name.lower(), value) for name, value in source.headers.raw]
    lengths = [value for name, value in headers if name == b"content-length"]
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    if source.http_version not in ("HTTP/1.1", "HTTP/1.0", "HTTP/2"):
        raise BadUpstreamResponse(cause=f"The response has version {source.http_version}")
    if source.status_code < 200 or source.status_code > 599:
        raise BadUpstreamResponse(cause=f"The response has status {source.status_code}")
    if len(lengths) > 1 or (lengths and chunked):
        raise BadUpstreamResponse(cause="The response's framing is ambiguous")
    if source.status_code in (204, 205):
        headers = [field for field in headers if field[0] not in (b"content-length", b"transfer-encoding")]
        return headers, None if source.status_code == 204 else 0
    return headers, int(lengths[0]) if lengths else None
