"""A provider in memory, and a way to run commands in this process."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.billing.inbox import StripeEvent
from gateway.billing.orders import Order, State
from gateway.cli.main import run
from gateway.cli.wiring import Wiring
from gateway.credits.provider import NO_CHANGES, ApiKey, Balance, Entry, Movement, SpendCap
from gateway.errors import Conflict

CONFIG = """\
server: {port: 0}
admin: null
credits: {signup_credits: 70}
upstreams: {a: {targets: ["http://127.0.0.1:9000"]}}
routes:
  - {path: /v1/things, methods: [POST], upstream: a, cost: 5}
  - path: /v1/large
    methods: [PUT, PATCH]
    upstream: a
    cost: {hold: 20, settle: X-Used}
    permission: things.write
    rate_limit: {limit: 10, window_seconds: 60}
  - {path: /status, methods: [GET], upstream: a, public: true}
"""


RESETS_AT = 1_800_057_600_000


class MemoryDesk:
    """Orders and events in dicts."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.events: dict[str, StripeEvent] = {}

    async def list_orders(self, *, is_all, limit):
        return [order for order in self.orders.values() if is_all or order.needs_person][:limit]

    async def list_dead(self, *, limit):
        return [event for event in self.events.values() if event.state == "dead"][:limit]

    async def find_order(self, order_id):
        return self.orders.get(order_id)

    async def find_event(self, event_id):
        return self.events.get(event_id)

    async def resolve_order(self, order_id, word):
        order = self.orders.get(order_id)
        if order is None:
            return None
        if word not in {"fulfil", "reject"}:
            raise Conflict("It does not apply.")
        state = State.fulfilled if word == "fulfil" else State.failed
        self.orders[order_id] = replace(order, state=state, needs_person=False)
        return self.orders[order_id]

    async def resolve_event(self, event_id, word):
        self.events[event_id] = replace(self.events[event_id], state={"retry": "new", "ignore": "ignored"}[word])
        return self.events[event_id]


class MemoryProvider:
    """Keys and entries in dicts. `failure` is raised by every call when it is set."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.entries: list[tuple[str, Entry]] = []
        self.failure: Exception | None = None
        self.opened = 0
        self.movements: dict[str, Movement] = {}
        self.desk = MemoryDesk()

    @asynccontextmanager
    async def open(self, config):
        self.opened += 1
        if self.failure is not None:
            raise self.failure
        yield self

    async def create(self, user_id, *, credits, name=None, expires_at=None, permissions=(), spend_caps=NO_CHANGES):
        key_id = f"key_{len(self.keys)}"
        self.keys[key_id] = ApiKey(
            key_id, user_id, name, "gw_abc", credits, 0, True, 1_800_000_000_000, expires_at, None, tuple(permissions)
        )
        await self.cap(key_id, spend_caps)
        return f"gw_secret{len(self.keys)}", self.keys[key_id]

    async def cap(self, key_id, spend_caps):
        key = self.keys.get(key_id)
        if key is not None:
            caps = {period: None if cap is None else SpendCap(cap, 3, RESETS_AT) for period, cap in spend_caps.items()}
            self.keys[key_id] = replace(key, spend_caps=replace(key.spend_caps, **caps))
        return self.keys.get(key_id)

    async def get(self, key_id):
        return self.keys.get(key_id)

    async def list(self, user_id=None, *, after="", limit=100):
        found = [key for key in self.keys.values() if user_id in (None, key.user_id) and key.key_id > after]
        return found[:limit]

    async def balance(self, key_id):
        key = self.keys.get(key_id)
        return key and Balance(key_id, key.user_id, key.available, key.held)

    async def grant(self, key_id, amount, kind, reason, reference):
        for _, entry in self.entries:
            if entry.reference == reference:
                return entry
        key = self.keys[key_id]
        after = None if key.available is None else key.available + amount
        self.keys[key_id] = replace(key, available=after)
        at = 1_800_000_000_000
        entry = Entry(len(self.entries) + 1, kind, amount, after, None, None, reason, reference, at)
        self.entries.append((key_id, entry))
        return entry

    async def history(self, key_id, *, before=None, limit=50):
        mine = [entry for owner, entry in self.entries if owner == key_id and (before is None or entry.id < before)]
        return mine[::-1][:limit]

    async def revoke(self, key_id):
        return self.keys.pop(key_id, None) is not None

    async def list_movements(self, *, unsettled, limit=100):
        found = [movement for movement in self.movements.values() if not unsettled or movement.state == "in-doubt"]
        return found[:limit]

    async def find_movement(self, id):
        return self.movements.get(id)

    async def resolve_movement(self, id, resolution):
        movement = self.movements.get(id)
        if movement is None:
            return None
        if movement.state != "in-doubt":
            raise Conflict(f"It is not in doubt but {movement.state}.")
        self.movements[id] = replace(movement, state=resolution)
        return self.movements[id]

    @asynccontextmanager
    async def open_desk(self, config):
        async with self.open(config):
            yield self, self.desk

    async def rotate(self, key_id):
        return ("gw_rotated", self.keys[key_id]) if key_id in self.keys else None


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def document(self):
        return json.loads(self.out)


@pytest.fixture
def provider():
    return MemoryProvider()


@pytest.fixture
def config_file(tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def gateway(provider, config_file, capsys, monkeypatch):
    """`gateway("keys", "list")` runs the command beside a config.yaml, on the provider in memory."""
    monkeypatch.chdir(config_file.parent)

    def call(*arguments: str, **wiring) -> Outcome:
        capsys.readouterr()
        code = run(arguments, Wiring(environ={}, open_provider=provider.open, open_desk=provider.open_desk, **wiring))
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call
