"""A wire to an Unkey of the test's own: it remembers what was sent and answers as it is told."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from typing import Any

from gateway.credits.unkey.client import UnkeyClient
from gateway.wire import Answer, Headers, Left, WireError

ROOT_KEY = "unkey_r00tverify"
ADMIN_ROOT_KEY = "unkey_r00tadmin"
SECRET = b"gw_5Q9ZpXkVtYq3mB7sNfWc2LrT8hJdKgEaUo"


class ScriptedWire:
    """Gives its `outcome`; told to hang, it waits for ever, and hands on what a caller who leaves began."""

    def __init__(self, outcome: Answer | WireError | None = None) -> None:
        self.outcome = outcome
        self.sent: list[tuple[bytes, Headers, bytes, float]] = []
        self.hands_over = False
        self.is_closed = False

    async def post(
        self, target: bytes, headers: Headers, body: bytes, timeout_seconds: float, left: Left | None = None
    ) -> Answer:
        self.sent.append((target, headers, body, timeout_seconds))
        if self.hands_over:
            assert left is not None
            left(self._answer())
        return await self._answer()

    async def get(self, target: bytes, headers: Headers, timeout_seconds: float) -> Answer:
        self.sent.append((target, headers, b"", timeout_seconds))
        return await self._answer()

    async def _answer(self) -> Answer:
        if isinstance(self.outcome, WireError):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome

    def count_connections(self) -> tuple[int, int, int]:
        return 3, 2, 1

    async def aclose(self) -> None:
        self.is_closed = True

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, _, body, _ in self.sent]


class Unkey:
    """A client, and the wires it has."""

    def __init__(self, **settings: Any) -> None:
        self.verify_wire = ScriptedWire()
        self.admin_wire = ScriptedWire()
        self.client = UnkeyClient(
            self.verify_wire,
            self.admin_wire,
            api_id="api_1",
            root_key=ROOT_KEY,
            admin_root_key=ADMIN_ROOT_KEY,
            **settings,
        )

    def says(self, outcome: Any) -> None:
        """What both wires give: an Answer, a WireError, or the `data` of a good answer."""
        if not isinstance(outcome, Answer | WireError):
            outcome = said(outcome)
        self.verify_wire.outcome = self.admin_wire.outcome = outcome


def said(data: Any, **members: Any) -> Answer:
    """A good answer of Unkey's."""
    return Answer(200, None, json.dumps({"meta": {"requestId": "req_1"}, "data": data, **members}).encode())


def problem(status: int, kind: str, retry_after_seconds: int | None = None) -> Answer:
    """An error of Unkey's; its detail repeats what was sent, as a careless server's may."""
    error = {
        "title": "Some Title",
        "detail": f"You sent {SECRET.decode()} with {ROOT_KEY}",
        "status": status,
        "type": f"https://unkey.com/docs/errors/{kind}",
    }
    return Answer(status, retry_after_seconds, json.dumps({"meta": {"requestId": "req_1"}, "error": error}).encode())


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")
