"""How long a balance and a page of history take when the ledger is long.

    python -m benchmarks.ledger --url sqlite:////tmp/ledger.db --entries 10000000

Fills an empty, migrated database with entries (benchmarks/books.py) and asks for random keys as `GET /credits` and `GET
/credits/transactions` do. In turns, and in between for nothing at all: what that takes others take too. Nothing is
removed afterwards: delete the file, or drop the database.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, text

from benchmarks.books import WrittenKey, write_books
from gateway.credits import ledger
from gateway.database.engine import Database, open_database

PAGE = 50
Question = Callable[[Connection, WrittenKey], Any]
QUESTIONS: dict[str, Question] = {
    "SELECT 1": lambda connection, _: connection.execute(text("SELECT 1")).all(),
    "balance": lambda connection, key: ledger.find_balance(connection, key.key_id),
    "newest page of history": lambda connection, key: ledger.history(connection, key.key_id, None, PAGE),
    "a page in the middle": lambda connection, key: ledger.history(connection, key.key_id, key.middle, PAGE),
}


def main() -> None:
    options = _options()
    database = open_database(options.url)
    begun = time.monotonic()
    keys = write_books(options.url, options.keys, options.entries)
    print(f"{options.entries:,} entries of {options.keys:,} keys written in {time.monotonic() - begun:.0f} s")
    took = asyncio.run(_ask(database, random.Random(1).choices(keys, k=options.asks)))
    for name, times_ms in took.items():
        p50, p99 = times_ms[len(times_ms) // 2], times_ms[len(times_ms) * 99 // 100]
        print(f"{name:24} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  max {times_ms[-1]:6.2f} ms  ({options.asks:,} keys)")


async def _ask(database: Database, keys: Sequence[WrittenKey]) -> dict[str, list[float]]:
    """How long each question took, in milliseconds, the quickest first."""
    took: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    for key in keys:
        for name, question in QUESTIONS.items():
            begun = time.perf_counter()
            found = await database.ask(lambda connection, key=key, question=question: question(connection, key))
            took[name].append((time.perf_counter() - begun) * 1000)
            assert found
    await database.aclose()
    return {name: sorted(times_ms) for name, times_ms in took.items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="An empty database; PostgreSQL's is migrated.")
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--asks", type=int, default=5_000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
