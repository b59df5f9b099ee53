"""The stand-in persona service: what `gateway dev` and the tests have behind the gateway.

    POST /v1/personas         a made-up person from `{seed?, locale?, count?, stream?}`; with `"stream": true` or
                              `Accept: text/event-stream` told field by field as server-sent events
    GET  /v1/personas/{id}    the same person again
    GET  /status              that it is up
    GET, POST, DELETE /sandbox/switches    see, set or reset how it misbehaves for everybody (switches.py)
    GET, DELETE /sandbox/calls             see or reset what it counted, for audits

`python -m gateway.sandbox.persona --port 9000` runs it as a process, `start_persona_server` in a running loop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
from collections.abc import Sequence
from typing import Any

import uvloop

from gateway.sandbox.calls import Calls
from gateway.sandbox.people import NAMES, SEED_MAX, make_persona, read_persona_id
from gateway.sandbox.process import add_address, listen, serve_until_stopped
from gateway.sandbox.switches import HONEST, BadSwitch, Switches
from gateway.sandbox.wire import Connection, Request, chunk, head, last_chunk, response

PERSONAS = "/v1/personas"
COUNT_MAX = 100


class Refusal(Exception):
    """An answer that says what is wrong with the request, in the persona service's own shape."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = to_json({"error": {"code": code, "message": message}})


class PersonaServer:
    """A running persona service. `calls` and `switches` are what the /sandbox paths show and set."""

    def __init__(self) -> None:
        self.port = 0
        self.calls = Calls()
        self.switches: Switches = HONEST
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server

    async def listen(self, host: str, port: int) -> None:
        """Accept connections; port 0 takes a free one, `self.port` tells which."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self._answer, self._connections), host, port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening and break off every connection."""
        self._listener.close()
        await asyncio.gather(*(connection.aclose() for connection in list(self._connections)))
        await self._listener.wait_closed()

    async def _answer(self, request: Request, connection: Connection) -> None:
        if request.method == "HEAD":
            # Its answers have no body, and nobody needs one.
            await connection.write(response(405, b"", {"Allow": "GET, POST"}))
            return
        try:
            if request.too_large:
                raise Refusal(413, "too_large", "The body is too large.")
            if request.path == PERSONAS or request.path.startswith(PERSONAS + "/"):
                await self._metered(request, connection)
            else:
                await connection.write(self._control(request))
        except Refusal as refusal:
            await connection.write(response(refusal.status, refusal.body, refusal.headers))

    def _control(self, request: Request) -> bytes:
        """The answer of a path that is not for sale."""
        match request.method, request.path:
            case "GET", "/status":
                return response(200, to_json({"status": "ok"}))
            case "GET", "/sandbox/calls":
                return response(200, to_json(self.calls.document()))
            case "DELETE", "/sandbox/calls":
                self.calls = Calls(open=self.calls.open)
                return response(200, to_json(self.calls.document()))
            case "GET", "/sandbox/switches":
                pass
            case "POST", "/sandbox/switches":
                self.switches = _switched(self.switches, read_object(request))
            case "DELETE", "/sandbox/switches":
                self.switches = HONEST
            case _:
                raise Refusal(404, "not_found", f"Nothing is at {request.method} {request.path}.")
        return response(200, to_json(self.switches.document()))

    async def _metered(self, request: Request, connection: Connection) -> None:
        """A call that a gateway sells: counted, and misbehaving as the switches say."""
        key_id = request.headers.get("x-gateway-key-id", "")
        self.calls.begin(key_id)
        try:
            switches = _switched(self.switches, request.headers.get("x-sandbox", ""))
            await asyncio.sleep(switches.stall)
            if switches.reset:
                connection.reset()
                return
            if switches.fail:
                raise Refusal(switches.fail, "failed_on_purpose", "A switch makes this call fail.")
            document, streams = _read_call(request)
            self.calls.usable(key_id)
            send = self._stream if streams else self._send
            await send(document, switches, connection)
        except Refusal as refusal:
            # A call that is refused for its own fault has had its answer; one that fails with 5xx has not.
            if refusal.status < 500:
                self.calls.usable(key_id)
            raise
        finally:
            self.calls.end()

    async def _send(self, document: dict[str, Any], switches: Switches, connection: Connection) -> None:
        body = to_json(document)
        headers = {"Content-Type": "application/json", "Content-Length": str(max(0, len(body) + switches.lie_length))}
        if switches.credits_used:
            headers["X-Credits-Used"] = switches.credits_used
        if not (switches.stall_body or switches.truncate):
            await connection.write(head(200, headers) + body)
            return
        half = len(body) // 2
        await connection.write(head(200, headers) + body[:half])
        await asyncio.sleep(switches.stall_body)
        if switches.truncate:
            connection.close()
        else:
            await connection.write(body[half:])

    async def _stream(self, document: dict[str, Any], switches: Switches, connection: Connection) -> None:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "Transfer-Encoding": "chunked"}
        trailers = {"X-Credits-Used": switches.credits_used} if switches.credits_used else {}
        if trailers:
            headers["Trailer"] = "X-Credits-Used"
        await connection.write(head(200, headers))
        events = _events(document)
        for number, event in enumerate(events):
            last = number == len(events) - 1
            await connection.write(chunk(event, switches.lie_length if last else 0))
            if switches.truncate and number >= len(events) // 2:
                connection.close()
                return
            if not last:
                await asyncio.sleep(switches.slow_stream + (switches.stall_body if number == 0 else 0))
        await connection.write(last_chunk(trailers))


async def start_persona_server(host: str = "127.0.0.1", port: int = 0) -> PersonaServer:
    """A persona service that listens in the running loop; `aclose` ends it."""
    server = PersonaServer()
    await server.listen(host, port)
    return server


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object, `{}` for none. Raises Refusal 422."""
    if not request.body:
        return {}
    try:
        value = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Refusal(422, "invalid_json", f"The body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(422, "invalid_json", "The body must be a JSON object.")
    return value


def _switched(switches: Switches, changes: str | dict[str, Any]) -> Switches:
    try:
        return switches.with_header(changes) if isinstance(changes, str) else switches.with_changes(changes)
    except BadSwitch as error:
        raise Refusal(400, "bad_switch", f"{error}.") from error


def _read_call(request: Request) -> tuple[dict[str, Any], bool]:
    """What is asked for: the document that answers it, and whether it is to be streamed. Raises Refusal."""
    if request.path != PERSONAS:
        if request.method != "GET":
            raise Refusal(405, "method_not_allowed", "A persona can only be read.", Allow="GET")
        made_from = read_persona_id(request.path.removeprefix(PERSONAS + "/"))
        if made_from is None:
            raise Refusal(404, "no_such_persona", "No persona has this id.")
        return dict(make_persona(*made_from)), False
    if request.method != "POST":
        raise Refusal(405, "method_not_allowed", "Personas are made with POST.", Allow="POST")
    wishes = read_object(request)
    if unknown := wishes.keys() - {"seed", "count", "locale", "stream"}:
        raise Refusal(422, "invalid", f"Unknown members: {', '.join(sorted(unknown))}.")
    seed = _whole(wishes, "seed", 0, SEED_MAX, secrets.randbelow(1 << 32))
    count = _whole(wishes, "count", 1, COUNT_MAX, 1)
    locale = wishes.get("locale", "en")
    if not isinstance(locale, str) or locale not in NAMES:
        raise Refusal(422, "invalid", f"locale must be one of {', '.join(NAMES)}.")
    stream = wishes.get("stream", "text/event-stream" in request.headers.get("accept", ""))
    if not isinstance(stream, bool):
        raise Refusal(422, "invalid", "stream must be true or false.")
    people = [dict(make_persona((seed + number) % (SEED_MAX + 1), locale)) for number in range(count)]
    document = {"personas": people} if "count" in wishes else people[0]
    # HTTP/1.0 has no chunks to stream in.
    return document, stream and request.version != "1.0"


def _whole(wishes: dict[str, Any], name: str, least: int, most: int, default: int) -> int:
    value = wishes.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refusal(422, "invalid", f"{name} must be a whole number from {least} to {most}.")
    return value


def _events(document: dict[str, Any]) -> list[bytes]:
    """A document as server-sent events: each field of each person, at the end the whole."""
    people = document.get("personas", [document])
    deltas = [
        _event("persona.delta", {"index": index, "field": field, "value": value})
        for index, person in enumerate(people)
        for field, value in person.items()
    ]
    return [*deltas, _event("persona.done", document)]


def _event(name: str, value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), to_json(value))


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, having said where on standard output."""
    server = await listen(start_persona_server, options)
    await serve_until_stopped(server, f"persona sandbox on http://{options.host}:{server.port}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.sandbox.persona", description="A stand-in persona service."
    )
    add_address(parser, 9000)
    uvloop.run(run(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
