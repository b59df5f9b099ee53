"""The first moments of a drain: who is in the accept queue, and who has just called on an idle connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvloop

from gateway.config.tree import Config, ServerSection
from gateway.deadlines import Deadlines
from gateway.server.listener import Listener
from gateway.server.sockets import Sockets
from gateway.server.worker import DrainingServer
from tests.server.harness import PATIENCE_SECONDS, Recorder, limits

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class WithLifespan(Recorder):
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await super().__call__(scope, receive, send)
            return
        for _ in range(2):
            message = await receive()
            await send({"type": message["type"] + ".complete"})


@contextlib.asynccontextmanager
async def started():
    """A server in this loop, its address, and a way to make callers that the loop has not heard of yet."""
    config = Config(server=ServerSection(port=0, drain_timeout_seconds=5), admin=None)
    sockets = Sockets.bind(config)
    deadlines = Deadlines(asyncio.get_running_loop())
    server = DrainingServer(config, Listener(WithLifespan(), limits(), deadlines), None, sockets)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([sockets.server])
    address = sockets.server.getsockname()
    callers = []

    def call():
        callers.append(socket.create_connection(address))
        callers[-1].sendall(REQUEST)
        callers[-1].setblocking(False)
        return callers[-1]

    try:
        yield server, call
    finally:
        deadlines.close()
        for caller in callers:
            caller.close()


async def received(caller):
    return await asyncio.get_running_loop().sock_recv(caller, 65_536)


async def answers_of_those_in_the_queue():
    async with started() as (server, call):
        # The kernel completes these connections; the loop has no turn to accept one before the drain begins.
        callers = [call() for _ in range(20)]
        await server._stop_accepting()
        draining = asyncio.ensure_future(server.shutdown())
        try:
            return [await received(caller) for caller in callers]
        finally:
            await draining


def test_those_in_the_accept_queue_are_answered():
    answers = uvloop.run(answers_of_those_in_the_queue())
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * 20
    assert all(b"connection: close" in answer for answer in answers)


async def answers_on_a_connection_that_was_idle_when_the_drain_began():
    async with started() as (server, call):
        caller = call()
        answers = [await received(caller)]
        draining = asyncio.ensure_future(server.shutdown())
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not all(connection.draining for connection in server._connections()):
                    await asyncio.sleep(0)  # a turn of the loop
            caller.send(REQUEST)  # as if the caller had sent it just before
            return [*answers, await received(caller), await received(caller)]
        finally:
            await draining


def test_a_request_that_was_on_its_way_to_an_idle_connection_is_answered(monkeypatch):
    monkeypatch.setattr("gateway.server.protocol.IDLE_GRACE_SECONDS", PATIENCE_SECONDS)
    kept, last, end = uvloop.run(answers_on_a_connection_that_was_idle_when_the_drain_began())
    assert kept.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" not in kept
    assert last.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in last
    assert end == b""
