"""Books that balance, with a row in every table, however many entries are wanted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection

from gateway.database.engine import open_database
from gateway.database.moving.archive import Archive
from gateway.database.moving.exporting import Export
from gateway.database.moving.importing import Import
from gateway.database.moving.opening import open_for_moving
from gateway.database.moving.rows import insert_rows
from gateway.database.moving.tables import TABLES, columns_of
from gateway.database.tables import HOLDS_PER_INSTANCE
from tests import preloaded

COMMAND = Path(sys.executable).with_name("gateway")
BATCH = 20_000
GRANTED = 1_000_000
DEAD_INSTANCE = 7
ODD_NAME = "Zoë \x1b[2J \U0001f600 '\"\\ \n"


async def fill(url: str, *, keys: int, entries: int, seed: int = 1) -> None:
    """`keys` keys that were granted credits and made calls, two open holds of a dead process, some of the rest."""
    database = open_database(url)
    try:
        chain = _Chain(keys, random.Random(seed))
        for batch in chain.batches(entries):
            await database.transaction(lambda connection, rows=batch: write(connection, "entries", rows))
        await database.transaction(lambda connection: write(connection, "keys", chain.keys()))
        await database.transaction(_write_the_rest)
    finally:
        await database.aclose()


def write(connection: Connection, table: str, rows: list[tuple]) -> None:
    found = next(one for one in TABLES if one.name == table)
    insert_rows(connection, found, columns_of(found), rows)


class _Chain:
    """Entries as the ledger writes them."""

    def __init__(self, keys: int, choice: random.Random) -> None:
        self._choice = choice
        self._last: list[int | None] = [None] * (keys + 1)
        self._balance = [0] * (keys + 1)

    def batches(self, entries: int) -> Iterator[list[tuple]]:
        batch = []
        for number in range(1, entries + 1):
            batch.append(self._entry(number))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _entry(self, id: int) -> tuple:
        key = id if id < len(self._last) else self._choice.randrange(1, len(self._last))
        previous = self._last[key]
        if previous is None:
            what = ("promo", GRANTED, None, None, "first credits", f"create:{key}")
        else:
            what = ("spend", -self._choice.randrange(3), "/v1/personas", f"req-{id:026d}", None, None)
        kind, amount, route, request_id, reason, reference = what
        self._balance[key] += amount
        self._last[key] = id
        return (id, key, previous, kind, amount, self._balance[key], route, request_id, reason, reference, 1_000 + id)

    def keys(self) -> list[tuple]:
        return [self._key(number) for number in range(1, len(self._last))]

    def _key(self, number: int) -> tuple:
        key_hash = hashlib.sha256(str(number).encode()).digest()
        held = 5 if number in (1, 2) else 0
        values = {
            "id": number,
            "key_id": f"key_{number:020x}",
            "key_hash": key_hash,
            "start": "gw_abc",
            "user_id": f"user-{number % 97}",
            "name": ODD_NAME if number % 2 else None,
            "balance": self._balance[number],
            "held": held,
            "enabled": 1,
            "created_at": number,
            "last_entry": self._last[number],
            "permissions": "",
            "capped": int(number == 1),
        }
        table = next(one for one in TABLES if one.name == "keys")
        return tuple(values.get(column) for column in columns_of(table))


def _write_the_rest(connection: Connection) -> None:
    first_hold = DEAD_INSTANCE * HOLDS_PER_INSTANCE + 1
    hold = ("/v1/personas", "req-held")
    some = os.urandom(32)
    rows: dict[str, list[tuple]] = {
        "holds": [(first_hold + n, n + 1, 5, hold[0], f"{hold[1]}-{n}", n, 1) for n in range(2)],
        "unkey_holds": [(first_hold + 9, 0, some, 3, 0, 3, *hold, 0, 1)],
        "rate_windows": [(1, "a", 60_000, 1, 2, 3), (1, "b", 60_000, 1, 2, 3)],
        "spend_caps": [(1, None, 10**9, 86_400_000, 5, 0, 7)],
        "requests": [(bytes([n]), some, some, None, 1, "key_1", 200, b"\x00\xff", 1) for n in range(3)],
        "answers": [(b"\x00\xff", some, 1, 1, b"\x00\xff", 2, 1), (b"\xff", some, first_hold, 0, None, 0, 1)],
        "doubts": [(4, 1, some, 3, *hold, "no answer", 1, None, None)],
        "grants": [(6, 1, 1, 5, "applied", None, 1, 1, 1, 1, 1, 1, 1, 1, None, 1, 1)],
        "retired_keys": [("unkey_1", 1, some, 1)],
        "accounts": [("user-1", 0, "cus_1", 12)],
        "claws": [("claw:1", "order_1")],
        "stripe_events": [("evt_1", "t", "cs_1", b'{"a": "\xc3\xab"}', "done", 1, 1, None, None, 1, 1)],
        "notifications": [("msg_1", "credits.low", "{}", "done", 1, 1, None, 1)],
        "low_keys": [(1, 10)],
        "leases": [("low-balances", "", 0, 5, 17)],
    }
    order = {"id": "order_1", "user_id": "u", "key_id": "k", "pack": "p", "state": "open", "currency": "usd"}
    table = next(one for one in TABLES if one.name == "orders")
    rows["orders"] = [
        tuple(
            order.get(column.name, None if column.nullable else 0 if column.name not in SOLD else 1)
            for column in table.columns
        )
    ]
    for name, some_rows in rows.items():
        write(connection, name, some_rows)


SOLD = {"quantity", "credits", "amount_cents"}


def config_of(directory: Path, url: str) -> Path:
    """A config.yaml for that database."""
    file = directory / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}.yaml"
    file.write_text(
        f'server: {{port: 0}}\nadmin: null\ndatabase: {{url: "{url}"}}\ncredits: {{heartbeat_seconds: 0.2}}\n'
        'upstreams: {a: {targets: ["http://127.0.0.1:9"]}}\n'
        "routes: [{path: /v1/personas, methods: [POST], upstream: a, cost: 5}]\n"
    )
    return file


def gateway(*arguments: object) -> subprocess.Popen[bytes]:
    """The command, as a process."""
    return preloaded.Popen([COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes], seconds: float = 100) -> tuple[int, str]:
    """Its exit code, and all that it said."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, (out + err).decode()


def body(export: Path) -> bytes:
    """Rows and totals of an export: the same for the same books. (When it was made stands in the first line.)"""
    lines = export.read_bytes().splitlines(keepends=True)
    return b"".join(lines[1:-1])


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def export_to(url: str, path: Path, **options) -> None:
    async def run():
        async with open_for_moving(url) as database:
            with path.open("wb") as file:
                await database.read(Export(file, **options).run)

    asyncio.run(run())


def import_from(path: Path, url: str, **options) -> int:
    async def run():
        archive = Archive(path)
        try:
            async with open_for_moving(url) as database:
                return await Import(archive, database, **options).run()
        finally:
            archive.close()

    return asyncio.run(run())


def read(url: str, work):
    async def run():
        async with open_for_moving(url) as database:
            return await database.read(work)

    return asyncio.run(run())


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)
