"""A target's host name: several addresses, others after a while, a name server that fails. Nothing blocks the loop."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from gateway.deadlines import Deadlines
from gateway.errors import UpstreamUnreachable
from gateway.upstreams.addresses import Addresses
from gateway.upstreams.http1 import Http1Transport
from gateway.upstreams.targets import Target
from tests.upstreams.conftest import get, opened_http1, run, until
from tests.upstreams.hostile import ScriptedUpstream


class Names:
    """Stands in for the loop's resolver: `known` may be changed; an exception is raised."""

    def __init__(self, *addresses: str) -> None:
        self.known: tuple[str, ...] | Exception = addresses
        self.asked = 0

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        self.asked += 1
        if isinstance(self.known, Exception):
            raise self.known
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.known]


class Loop:
    """The running loop, but for its resolver."""

    def __init__(self, names: Names) -> None:
        self._loop = asyncio.get_running_loop()
        self.getaddrinfo = names.getaddrinfo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def addresses_of(transport: Http1Transport, names: Names, host: str = "personas.test") -> Addresses:
    """Let the transport's pool find its target by `names`."""
    pool = transport.pool
    target = Target(f"http://{host}:{pool.target.port}")
    pool._addresses = Addresses(target, 0.1, pool._deadlines, Loop(names), pool._leave_others)  # type: ignore[arg-type]
    return pool._addresses


def test_connections_go_over_the_addresses_and_past_those_that_fail(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url, connect_timeout_seconds=1) as transport:
            # Nobody listens at the port on 127.0.0.2 and 127.0.0.3.
            addresses_of(transport, Names("127.0.0.2", "127.0.0.1", "127.0.0.3"))
            for _ in range(6):
                assert (await transport.send(get("close-announced"))).status == 200

    run(main)


def test_a_name_whose_addresses_all_refuse_is_unreachable_and_not_executed(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        async with opened_http1(upstream.url) as transport:
            for names in (Names("127.0.0.2", "127.0.0.3"), Names()):
                addresses_of(transport, names)
                with pytest.raises(UpstreamUnreachable) as caught:
                    await transport.send(get("ok"))
                assert caught.value.possibly_executed is False

    run(main)


def test_a_name_that_moves_takes_its_connections_along(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        names = Names("127.0.0.2")
        with ScriptedUpstream(host="127.0.0.2", port=upstream.port) as former:
            async with opened_http1(upstream.url) as transport:
                addresses_of(transport, names)
                busy = asyncio.create_task(transport.send(get("slow")))
                await until(lambda: bool(former.seen))
                assert (await transport.send(get("ok"))).body == b"ok"
                names.known = ("127.0.0.1",)
                await until(lambda: transport.pool.idle_count == 0)
                assert (await busy).status == 200, "a call under way is not disturbed"
                await until(lambda: transport.pool.idle_count == 0)
                assert (await transport.send(get("ok"))).body == b"ok"
                assert (len(former.seen), len(upstream.seen)) == (2, 1)

    run(main)


def test_a_name_server_that_fails_takes_no_target_with_it(upstream: ScriptedUpstream) -> None:
    async def main() -> None:
        names = Names("127.0.0.1")
        async with opened_http1(upstream.url) as transport:
            addresses_of(transport, names)
            assert (await transport.send(get("close-announced"))).status == 200
            names.known = socket.gaierror(socket.EAI_AGAIN, "Try again")
            asked = names.asked
            await until(lambda: names.asked > asked + 1)
            assert (await transport.send(get("close-announced"))).status == 200

    run(main)


def test_addresses_are_not_looked_up() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        names = Names()
        for host, expected in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
            deadlines = Deadlines(loop)
            addresses = Addresses(Target(f"http://{host}"), 1, deadlines, Loop(names), lambda _: None)  # type: ignore[arg-type]
            assert await addresses.in_order() == [expected]
            await addresses.aclose()
        assert names.asked == 0

    run(main)
