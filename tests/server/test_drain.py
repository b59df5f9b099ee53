"""The moment between the last accept and the close of the listening socket."""

import asyncio
import socket

import uvloop

from gateway.config.tree import Config, ServerSection
from gateway.deadlines import Deadlines
from gateway.server.listener import Listener
from gateway.server.sockets import Sockets
from gateway.server.worker import DrainingServer
from tests.server.harness import Recorder, limits


class WithLifespan(Recorder):
    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await super().__call__(scope, receive, send)
            return
        for _ in range(2):
            message = await receive()
            await send({"type": message["type"] + ".complete"})


async def answers_of_those_in_the_queue():
    loop = asyncio.get_running_loop()
    config = Config(server=ServerSection(port=0, drain_timeout_seconds=5), admin=None)
    sockets = Sockets.bind(config)
    deadlines = Deadlines(loop)
    server = DrainingServer(config, Listener(WithLifespan(), limits(), deadlines), None, sockets)
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup([sockets.server])
    address = sockets.server.getsockname()
    # The kernel completes these connections; the loop has no turn to accept one before the drain begins.
    callers = [socket.create_connection(address) for _ in range(20)]
    for caller in callers:
        caller.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        caller.setblocking(False)
    await server._stop_accepting()
    draining = asyncio.ensure_future(server.shutdown())
    try:
        return [await loop.sock_recv(caller, 65_536) for caller in callers]
    finally:
        await draining
        deadlines.close()
        for caller in callers:
            caller.close()


def test_those_in_the_accept_queue_are_answered():
    answers = uvloop.run(answers_of_those_in_the_queue())
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * 20
    assert all(b"connection: close" in answer for answer in answers)
