"""How long a balance and a page of history take when the ledger is long.

    python -m benchmarks.ledger --url sqlite:////tmp/ledger.db --entries 10000000

Fills an empty, migrated database with entries (by SQL, so that it takes minutes and not hours) and asks for random keys
through the same functions that serve `GET /credits` and `GET /credits/transactions`. Every key's entries lie as far
apart as they can: one per key, key after key. Nothing is removed afterwards: delete the file, or drop the database.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, text

from gateway.credits import ledger
from gateway.database.engine import Database, open_database
from gateway.database.moving.numbers import set_numbers
from gateway.database.moving.patience import take_time

GRANTED = 1_000_000
STEP = 500_000
PAGE = 50

NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (VALUES (:first) UNION ALL SELECT i + 1 FROM n WHERE i < :last)",
    "postgresql": "WITH n AS (SELECT i FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i)",
}
HASHES = {
    "sqlite": "CAST(printf('%032d', i) AS BLOB)",
    "postgresql": "convert_to(lpad(CAST(i AS text), 32, '0'), 'UTF8')",
}
NAMES = {
    "sqlite": "printf('key_%020d', i)",
    "postgresql": "'key_' || lpad(CAST(i AS text), 20, '0')",
}
WORDS = "CAST(i AS text)"


def main() -> None:
    options = _options()
    asyncio.run(_measure(options.url, options.entries, options.keys, options.asks))


async def _measure(url: str, entries: int, keys: int, asks: int) -> None:
    database = open_database(url)
    try:
        await _fill(database, entries, keys)
        choice = random.Random(1)
        key_ids = [f"key_{choice.randrange(1, keys + 1):020d}" for _ in range(asks)]
        questions: dict[str, Callable[[Connection, str], Any]] = {
            "balance": ledger.find_balance,
            "history, newest page": lambda connection, key_id: ledger.history(connection, key_id, None, PAGE),
            "history, a page in the middle": lambda connection, key_id: ledger.history(
                connection, key_id, _middle(key_id, entries, keys), PAGE
            ),
        }
        for name, question in questions.items():
            await _ask(database, name, question, key_ids)
    finally:
        await database.aclose()


def _middle(key_id: str, entries: int, keys: int) -> int:
    return int(key_id[4:]) + entries // keys // 2 * keys


async def _fill(database: Database, entries: int, keys: int) -> None:
    begun = time.monotonic()
    for first in range(1, entries + 1, STEP):
        last = min(entries, first + STEP - 1)
        await database.transaction(lambda db, first=first, last=last: _write_entries(db, first, last, keys))
    await database.transaction(lambda db: _write_keys(db, entries, keys))
    seconds = time.monotonic() - begun
    print(f"{entries:,} entries of {keys:,} keys written in {seconds:.0f} s ({entries / seconds:,.0f}/s)")
    await database.transaction(_analyze)


def _write_entries(connection: Connection, first: int, last: int, keys: int) -> None:
    take_time(connection)
    dialect = connection.dialect.name
    statement = (
        "INSERT INTO entries (id, key, previous, kind, amount, balance_after, route, request_id, reason, reference,"
        f" created_at) {NUMBERS[dialect]} SELECT i, (i - 1) % :keys + 1,"
        " CASE WHEN i > :keys THEN i - :keys END,"
        " CASE WHEN i > :keys THEN 'spend' ELSE 'promo' END, CASE WHEN i > :keys THEN -1 ELSE :granted END,"
        " :granted - (i - 1) / :keys, CASE WHEN i > :keys THEN '/v1/personas' END,"
        f" CASE WHEN i > :keys THEN 'req-' || {WORDS} END, NULL,"
        f" CASE WHEN i > :keys THEN NULL ELSE 'create:' || {WORDS} END, 1700000000000 + i FROM n"
    )
    connection.execute(text(statement), {"first": first, "last": last, "keys": keys, "granted": GRANTED})


def _write_keys(connection: Connection, entries: int, keys: int) -> None:
    """Each with what its entries come to. `entries` is a multiple of `keys`."""
    take_time(connection)
    dialect = connection.dialect.name
    statement = (
        "INSERT INTO keys (id, key_id, key_hash, start, user_id, balance, held, enabled, created_at, last_entry)"
        f" {NUMBERS[dialect]} SELECT i, {NAMES[dialect]}, {HASHES[dialect]}, 'gw_', 'user', :balance, 0, 1, 0,"
        " :before + i FROM n"
    )
    balance, before = GRANTED - (entries - 1) // keys, entries - keys
    connection.execute(text(statement), {"first": 1, "last": keys, "balance": balance, "before": before})
    set_numbers(connection, {})


def _analyze(connection: Connection) -> None:
    """PostgreSQL's autovacuum does it a minute later; SQLite knows without."""
    if connection.dialect.name == "postgresql":
        take_time(connection)
        connection.execute(text("ANALYZE"))


async def _ask(database: Database, name: str, question: Callable[[Connection, str], Any], key_ids: list[str]) -> None:
    took = []
    for key_id in key_ids:
        begun = time.perf_counter()
        found = await database.read(lambda connection, key_id=key_id: question(connection, key_id))
        took.append((time.perf_counter() - begun) * 1000)
        assert found
    took.sort()
    p50, p99 = took[len(took) // 2], took[len(took) * 99 // 100]
    print(f"{name:30} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  max {took[-1]:6.2f} ms  ({len(took):,} random keys)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="An empty, migrated database.")
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--asks", type=int, default=5_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
