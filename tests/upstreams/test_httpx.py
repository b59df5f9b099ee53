"""What only the httpx transport promises: a complete error table, HTTP/2, proxies, and a quiet log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from gateway.errors import BadRequest, BadUpstreamResponse, GatewayError, InternalError, UpstreamError
from gateway.upstreams.httpx_errors import NEVER_SENT, OTHERS, translated
from tests.upstreams.conftest import get, opened, read_all, run, until
from tests.upstreams.hostile import ScriptedUpstream

EXCEPTIONS = [
    thing for name in httpx.__all__ if isinstance(thing := getattr(httpx, name), type) and issubclass(thing, Exception)
]


@pytest.mark.parametrize("foreign", EXCEPTIONS, ids=lambda foreign: foreign.__name__)
def test_every_exception_of_httpx_is_mapped(foreign: type[Exception]) -> None:
    assert any(ancestor in NEVER_SENT or ancestor in OTHERS for ancestor in foreign.__mro__)
    error = foreign.__new__(foreign)
    Exception.__init__(error, "secret host name")
    ours = translated(error)
    assert isinstance(ours, GatewayError)
    assert "secret" in ours.cause
    assert "secret" not in ours.detail
    if isinstance(ours, UpstreamError):
        assert ours.possibly_executed is (not issubclass(foreign, (*NEVER_SENT, httpx.PoolTimeout)))


def test_an_unknown_exception_is_a_defect_of_ours() -> None:
    assert isinstance(translated(KeyError("x")), InternalError)


def test_upgrades_are_refused(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened("httpx", upstream.url) as transport:
            with pytest.raises(BadUpstreamResponse) as caught:
                await transport.send(get("tunnel", upgrade=b"websocket"))
            assert caught.value.possibly_executed is False
            assert upstream.connection_count == 0

    run(main)


def test_a_caller_who_leaves_before_the_head_ends_the_upstreams_work(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened("httpx", upstream.url) as transport:
            call = asyncio.create_task(transport.send(get("no-head")))
            await until(lambda: bool(upstream.seen))
            call.cancel()
            await asyncio.wait([call])
            await until(lambda: not transport.count_connections()[0] and not upstream.open_connections, seconds=5)

    run(main)


def test_the_environments_proxy_is_used_only_where_asked(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with ScriptedUpstream() as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("NO_PROXY", "")
            monkeypatch.setenv("no_proxy", "")
            async with opened("httpx", upstream.url) as transport:
                await transport.send(get("ok"))
            assert (len(upstream.seen), len(proxy.seen)) == (1, 0)
            async with opened("httpx", upstream.url, trust_env=True) as transport:
                await transport.send(get("ok"))
            assert (len(upstream.seen), len(proxy.seen)) == (1, 1)

    run(main)


def test_a_configured_proxy_is_used(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        with ScriptedUpstream() as proxy:
            async with opened("httpx", upstream.url, proxy_url=proxy.url) as transport:
                response = await transport.send(get("echo?x=%2e"))
                assert await read_all(response)
            assert proxy.seen[0].target == f"{upstream.url}/echo?x=%2e"
            assert upstream.seen == []

    run(main)


def test_an_https_target_is_reached_through_a_proxys_tunnel(certificate: Path) -> None:
    async def main() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with ScriptedUpstream(context) as secure, TunnelProxy() as proxy:
            settings = {"proxy_url": proxy.url, "tls": {"ca_file": str(certificate)}}
            async with opened("httpx", secure.url + "/base", **settings) as transport:
                await read_all(await transport.send(get("a%2Fb/echo?x=%2e&&y")))
                assert secure.seen[0].target == "/base/a%2Fb/echo?x=%2e&&y"
                with pytest.raises(BadRequest):
                    await transport.send(get("free/../echo"))
            assert proxy.asked == [f"CONNECT 127.0.0.1:{secure.port} HTTP/1.1"] * len(proxy.asked)
            assert len(secure.seen) == 1

    run(main)


def test_urls_are_not_logged(upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        caplog.set_level(logging.DEBUG)
        async with opened("httpx", upstream.url) as transport:
            await read_all(await transport.send(get("ok?api_key=secret")))
        assert "secret" not in caplog.text

    run(main)


def test_cookies_of_one_answer_are_not_sent_with_the_next_request(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened("httpx", upstream.url) as transport:
            await read_all(await transport.send(get("set-cookie")))
            await read_all(await transport.send(get("ok")))
            assert upstream.seen[1].header("cookie") == []
            assert list(transport.members[0].transport._destination.client.cookies.jar) == []

    run(main)


class TunnelProxy:
    """Takes CONNECT and passes bytes both ways, in threads."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            head = near.recv(65_536).decode()
            self.asked.append(head.partition("\r\n")[0])
            host, _, port = head.split(" ")[1].rpartition(":")
            far = socket.create_connection((host, int(port)))
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self._pass_on, args=(far, near), daemon=True)
            back.start()
            self._pass_on(near, far)
            back.join()
            near.close()
            far.close()

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65_536):
                other.sendall(data)
        except OSError:
            pass
        finally:
            for sock in (one, other):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


class Http2Upstream(asyncio.Protocol):
    """Answers each HTTP/2 request with its path and the length of its body."""

    def __init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        self.paths: dict[int, str] = {}
        self.sizes: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.h2.initiate_connection()
        self.transport.write(self.h2.data_to_send())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = dict(event.headers)
                assert not {"connection", "transfer-encoding", "host"} & set(headers)
                self.paths[event.stream_id] = str(headers[":path"])
                self.sizes[event.stream_id] = 0
            elif isinstance(event, h2.events.DataReceived):
                self.sizes[event.stream_id] += len(event.data)
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                body = f"{self.paths[event.stream_id]} {self.sizes[event.stream_id]}".encode()
                self.h2.send_headers(event.stream_id, [(":status", "200"), ("content-length", str(len(body)))])
                self.h2.send_data(event.stream_id, body, end_stream=True)
        self.transport.write(self.h2.data_to_send())  # type: ignore[attr-defined]


class _Closing:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    async def aclose(self) -> None:
        self._server.close()
        await self._server.wait_closed()


def test_http2_is_spoken_where_offered_and_its_connection_shared(certificate: Path) -> None:
    async def main() -> None:
        connections: list[Http2Upstream] = []

        def connection() -> Http2Upstream:
            connections.append(Http2Upstream())
            return connections[-1]

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.set_alpn_protocols(["h2"])
        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0, ssl=context)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/base"
        settings = {"http2": True, "tls": {"ca_file": str(certificate)}}
        # uvloop never finishes closing a loop whose server is still open: close it whatever happens.
        async with contextlib.aclosing(_Closing(server)), opened("httpx", url, **settings) as transport:

            async def call(number: int) -> bytes:
                response = await transport.send(get(f"a%2F{number}?x", b"POST", body=b"x" * number))
                return await read_all(response)

            assert await call(1) == b"/base/a%2F1?x 1"
            answers = await asyncio.gather(*[call(number) for number in range(20)])
            assert answers == [b"/base/a%%2F%d?x %d" % (number, number) for number in range(20)]
            # One caller who leaves must not take the shared connection along.
            left = asyncio.create_task(call(5))
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.wait([left])
            assert await call(2) == b"/base/a%2F2?x 2"
        assert len(connections) == 1

    run(main)
