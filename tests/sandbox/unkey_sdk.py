"""Unkey's own client (the package unkey.py) against a stand-in, with every exchange kept as it went over the wire."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import httpx
from unkey.py import Unkey
from unkey.py.utils import BackoffStrategy, RetryConfig

from tests.sandbox.openapi import check_response, fits_request
from tests.sandbox.unkey_caller import ROOT_KEY

# It repeats every failed POST of its own accord otherwise, increments included.
NO_RETRIES = RetryConfig("none", BackoffStrategy(1, 1, 1, 1), retry_connection_errors=False)


class Sdk:
    """The client, and the last answer that it was given."""

    def __init__(self, unkey: Unkey) -> None:
        self._calls = {
            "keys.verifyKey": unkey.keys.verify_key_async,
            "keys.createKey": unkey.keys.create_key_async,
            "keys.updateCredits": unkey.keys.update_credits_async,
            "keys.getKey": unkey.keys.get_key_async,
            "keys.whoami": unkey.keys.whoami_async,
            "keys.updateKey": unkey.keys.update_key_async,
            "keys.deleteKey": unkey.keys.delete_key_async,
            "keys.rerollKey": unkey.keys.reroll_key_async,
            "apis.listKeys": unkey.apis.list_keys_async,
        }
        self.answer: httpx.Response

    async def keep(self, answer: httpx.Response) -> None:
        """Called with every answer; holds both sides of the exchange against the description."""
        await answer.aread()
        call = answer.request.url.path.removeprefix("/v2/")
        assert fits_request(call, json.loads(answer.request.content)) or answer.status_code == 400
        # A proxy's page is nothing that Unkey describes.
        if answer.headers["content-type"] != "text/html":
            check_response(call, answer.status_code, answer.headers, answer.content)
        self.answer = answer

    async def call(self, call, **fields):
        """What the client makes of a call that succeeds, as JSON; names as Python spells them. Raises as the client."""
        result = await self._calls[call](**fields)
        # listKeys is wrapped once more, for its pages.
        return getattr(result, "result", result).model_dump(mode="json", by_alias=True)


@asynccontextmanager
async def unkey_sdk(url, root_key=ROOT_KEY):
    """The official client, without its retries."""
    async with httpx.AsyncClient() as http:
        sdk = Sdk(Unkey(root_key=root_key, server_url=url, async_client=http, retry_config=NO_RETRIES))
        http.event_hooks = {"response": [sdk.keep]}
        yield sdk
