"""The stand-in for Unkey's API v2 on a socket: the calls that the gateway makes, with what hurts about them.

    POST /v2/keys.verifyKey      verify.py: every verdict is 200; credits are taken from a live counter
    POST /v2/keys.updateCredits, keys.createKey, keys.getKey, keys.whoami, keys.updateKey, keys.deleteKey,
         keys.rerollKey, apis.listKeys    keeping.py: they go by the stored values
    GET  /v2/liveness
         /_sandbox/…             control.py: faults, settings, books

A request goes through api.py (shape, root key, limit), its effects into database.py; faults.py says which of them fail
and malformed.py how their answers are spoilt. In a test:

    server = UnkeyServer()
    await server.start()
    key_id, secret = server.create_key(credits=100)
    server.faults.set(kind="silent", call="updateCredits", takes_effect=True, times=1)
    …
    server.database.balances.spent[key_id], server.books.updates
    await server.aclose()

`python -m gateway.sandbox.unkey --port 9001` runs it as a process.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway.sandbox.clock import Clock
from gateway.sandbox.unkey.answers import Answer, Refusal
from gateway.sandbox.unkey.api import LIVENESS, Api, Asked, workspace_limited
from gateway.sandbox.unkey.bodies import BODIES
from gateway.sandbox.unkey.books import Books, Received
from gateway.sandbox.unkey.control import PREFIX, Control
from gateway.sandbox.unkey.database import Database
from gateway.sandbox.unkey.faults import Fault, Faults
from gateway.sandbox.unkey.keeping import Keeper
from gateway.sandbox.unkey.malformed import write_malformed, written
from gateway.sandbox.unkey.permissions import RootKey
from gateway.sandbox.unkey.settings import Settings
from gateway.sandbox.wire import Connection, Request, response

ROOT_KEY = "unkey_sandbox_root"
API_ID = "api_sandbox"
V2 = "/v2/"
SILENT_SECONDS = 3600.0
FAULTY_LIMIT_PER_MINUTE = 1
FAULTY_KINDS = {
    400: "unkey/application/invalid_input",
    401: "unkey/authentication/key_not_found",
    403: "unkey/authorization/workspace_disabled",
    404: "unkey/data/key_not_found",
    408: "user/bad_request/request_timeout",
    412: "unkey/application/precondition_failed",
    429: "user/too_many_requests/workspace_rate_limited",
}
"""What an `error` of this status is called; any other is service_unavailable."""


class UnkeyServer:
    """A running stand-in. `database`, `books`, `faults` and `settings` are what /_sandbox shows and sets."""

    def __init__(
        self,
        *,
        root_keys: dict[str, RootKey] | None = None,
        api_ids: tuple[str, ...] = (API_ID,),
        settings: Settings | None = None,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        self.port = 0
        self.clock = clock or Clock()
        self.settings = settings or Settings()
        self.database = Database(self.clock, self.settings, root_keys or {ROOT_KEY: RootKey()}, api_ids)
        self.faults = Faults(seed)
        self.books = Books(self.database)
        self._api = Api(self.database)
        self._control = Control(self.database, self.faults, self.books)
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Accept connections in the running loop; port 0 takes a free one, `self.port` tells which."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self._answer, self._connections), host, port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """Stop listening and break off every connection."""
        self._listener.close()
        await asyncio.gather(*(connection.aclose() for connection in list(self._connections)))
        await self._listener.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, call: str, body: dict[str, Any], root_key: str = ROOT_KEY) -> tuple[int, dict[str, Any]]:
        """A call without a socket and without faults ("keys.getKey"): the status and the whole document."""
        raw_body = json.dumps(body).encode()
        asked = Asked(call, self._api.new_request_id(), authorization=f"Bearer {root_key}", raw_body=raw_body)
        answer = self._api.answer(asked)
        return answer.status, json.loads(answer.body)

    def create_key(self, credits: int | None = None, **fields: Any) -> tuple[str, str]:
        """Put a key into the tables: its id and its secret. `fields` as createKey takes them. Raises InvalidField."""
        body = {"apiId": min(self.database.api_ids), "credits": {"remaining": credits}, **fields}
        BODIES["keys.createKey"](body, "fields")
        made = Keeper(self.database).create(body, RootKey())
        return made["keyId"], made["key"]

    async def _answer(self, request: Request, connection: Connection) -> None:
        path = request.path
        if path.startswith(PREFIX):
            await connection.write(written(self._control.answer(request.method, path, bytes(request.body))))
            return
        call = path.removeprefix(V2)
        wanted = "GET" if call == LIVENESS else "POST"
        if not path.startswith(V2) or (call not in BODIES and call != LIVENESS):
            await connection.write(_plain(404, request))
        elif request.method != wanted:
            await connection.write(_plain(405, request, Allow=wanted))
        else:
            await self._serve(self._asked(call, request), connection)

    def _asked(self, call: str, request: Request) -> Asked:
        headers = request.headers
        return Asked(
            call,
            self._api.new_request_id(),
            headers.get("authorization", ""),
            headers.get("accept", ""),
            headers.get("content-type", ""),
            bytes(request.body),
            request.too_large,
        )

    async def _serve(self, asked: Asked, connection: Connection) -> None:
        received = self.books.receive(asked)
        fault = self.faults.strike(asked.call) if self.faults else None
        if fault is None:
            await connection.write(written(self._carry_out(received)))
            return
        received.fault = fault.kind
        answer = self._carry_out(received, stale=fault.kind == "stale") if fault.carried_out else None
        await self._misbehave(fault, received, answer, connection)

    def _carry_out(self, received: Received, *, stale: bool = False) -> Answer:
        answer = self._api.answer(received.asked, stale=stale)
        received.carried_out = True
        received.status = answer.status
        return answer

    async def _misbehave(self, fault: Fault, received: Received, answer: Answer | None, connection: Connection) -> None:
        """End a call as the fault says; `answer` is there if the call was carried out already."""
        match fault.kind:
            case "slow":
                await asyncio.sleep(fault.seconds)
                await connection.write(written(answer or self._carry_out(received)))
            case "error" | "limited":
                await connection.write(written(_failure(fault, received.asked)))
            case "malformed":
                spoilt = answer or _failure(fault, received.asked)
                await write_malformed(spoilt, fault.how, connection, seconds=fault.seconds, size_bytes=fault.size_bytes)
            case "reset":
                connection.reset()
            case "closed":
                connection.close()
            case "silent":
                await asyncio.sleep(SILENT_SECONDS)
                connection.close()
            case _:
                await connection.write(written(answer or self._carry_out(received, stale=True)))


def _failure(fault: Fault, asked: Asked) -> Answer:
    """An error of Unkey's own making: the workspace's limit, or whatever its status says."""
    if fault.kind == "limited":
        refusal = workspace_limited(FAULTY_LIMIT_PER_MINUTE)
        refusal.headers = {
            "RateLimit-Limit": str(FAULTY_LIMIT_PER_MINUTE),
            "RateLimit-Remaining": "0",
            "RateLimit-Reset": str(fault.retry_after_seconds),
            "Retry-After": str(fault.retry_after_seconds),
        }
    else:
        kind = FAULTY_KINDS.get(fault.status, "unkey/application/service_unavailable")
        refusal = Refusal(fault.status, kind, "A switch makes this call fail.")
    return refusal.answer(asked.request_id, asked.accept)


def _plain(status: int, request: Request, **headers: str) -> bytes:
    """What Unkey's router says of a path or method that it doesn't know. The answer to HEAD has no body."""
    body = b"" if request.method == "HEAD" else b"404 page not found\n" if status == 404 else b"Method Not Allowed\n"
    return response(status, body, {"Content-Type": "text/plain; charset=utf-8", **headers})
