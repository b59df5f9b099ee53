"""A stand-in for Unkey to call in a test. Whatever passes here both ways is held against Unkey's own description."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import uvloop

from gateway.sandbox.clock import Clock
from gateway.sandbox.unkey.server import API_ID, ROOT_KEY, UnkeyServer
from tests.sandbox.exchange import Answer, exchange
from tests.sandbox.openapi import check_response, fits_request

START_SECONDS = 1_800_000_000


class Caller:
    """Calls a stand-in whose clock stands still until it is advanced."""

    def __init__(self, server: UnkeyServer) -> None:
        self.server = server
        self.balances = server.database.balances
        self.faults = server.faults
        self.settings = server.settings
        self.clock = server.clock

    async def ask(self, call, body, *, root_key=ROOT_KEY, fits=True, **headers) -> Answer:
        """One call on a connection of its own. `fits`: whether the request is one that the description allows."""
        assert fits_request(call, body) == fits, body
        answer = await self.send(call, body, root_key=root_key, **headers)
        check_response(call, answer.status, answer.headers, answer.body)
        return answer

    async def send(self, call, body, *, root_key=ROOT_KEY, **headers) -> Answer:
        """As `ask`, but nothing is checked."""
        fields = {
            "Authorization": f"Bearer {root_key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
        }
        fields |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        fields = {name: value for name, value in fields.items() if value is not None}
        return await exchange(self.server.port, "POST", f"/v2/{call}", body=body, headers=fields)

    async def data(self, call, **body):
        """The `data` of a call that succeeds."""
        answer = await self.ask(call, body)
        assert answer.status == 200, answer.body
        return answer.document["data"]

    async def verify(self, key, **body):
        return await self.data("keys.verifyKey", key=key, **body)

    async def cost(self, key, cost):
        """Verify and take so many credits: the code and the credits that the answer tells."""
        verdict = await self.verify(key, credits={"cost": cost})
        return verdict["code"], verdict.get("credits")

    async def create(self, credits=None, **fields):
        """A new key: its id and its secret. Credits are a number, the member as createKey takes it, or unlimited."""
        if credits is not None:
            fields["credits"] = credits if isinstance(credits, dict) else {"remaining": credits}
        made = await self.data("keys.createKey", apiId=API_ID, **fields)
        return made["keyId"], made["key"]

    async def update_credits(self, key_id, operation, value):
        return await self.data("keys.updateCredits", keyId=key_id, operation=operation, value=value)

    async def stored(self, key_id):
        """What getKey says; None is unlimited."""
        return (await self.data("keys.getKey", keyId=key_id)).get("credits", {}).get("remaining")

    async def refused(self, call, *, root_key=ROOT_KEY, fits=True, **body):
        """The status and the end of the type of a call that is refused."""
        answer = await self.ask(call, body, root_key=root_key, fits=fits)
        error = answer.document["error"]
        return answer.status, error["type"].removeprefix("https://unkey.com/docs/errors/")

    async def control(self, method, path, body=None):
        answer = await exchange(self.server.port, method, f"/_sandbox/{path}", body=body)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)


@asynccontextmanager
async def unkey_sandbox(**options):
    """A Caller of a running stand-in."""
    server = UnkeyServer(clock=Clock(lambda: START_SECONDS), **options)
    await server.start()
    try:
        yield Caller(server)
    finally:
        await server.aclose()


def tell(story, **options):
    """Runs `story(caller)` beside a stand-in, in uvloop as in production."""

    async def run():
        async with unkey_sandbox(**options) as caller:
            return await story(caller)

    return uvloop.run(run())
