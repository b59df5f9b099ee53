"""Others that a gateway talks to, each in a thread of its own: the app with its JWKS, and the stand-in for Stripe."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator

import uvloop

from gateway.sandbox.stripe.server import StripeServer
from tests.api.harness import App


@contextlib.contextmanager
def published_app() -> Iterator[App]:
    """The app with its JWKS on a socket: `app.url`."""
    made = App()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"keys": made.published}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/jwks.json"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def running_stripe() -> Iterator[StripeServer]:
    """It is there while another thread has something to do: its acts and books are for when it has nothing to do."""
    stripe, ready, loop = StripeServer(), threading.Event(), uvloop.new_event_loop()

    async def serve(stop: asyncio.Event) -> None:
        await stripe.start()
        ready.set()
        await stop.wait()
        await stripe.aclose()

    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stop)), name="stripe", daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield stripe
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
