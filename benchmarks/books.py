"""Books for a benchmark, by SQL: ten million entries take half a minute and not hours. And what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, create_engine, insert, make_url, text

from gateway.credits.secrets import START_LENGTH, hash_secret, new_key_id, new_secret
from gateway.database.moving.numbers import set_numbers
from gateway.database.tables import keys as keys_table

GRANTED = 1_000_000_000
STEP = 500_000
NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (VALUES (:first) UNION ALL SELECT i + 1 FROM n WHERE i < :last)",
    "postgresql": "WITH n AS (SELECT i FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i)",
}
ENTRIES = """INSERT INTO entries
    (id, key, previous, kind, amount, balance_after, route, request_id, reason, reference, created_at) {numbers}
    SELECT i, (i - 1) % :keys + 1, CASE WHEN i > :keys THEN i - :keys END,
        CASE WHEN i > :keys THEN 'spend' ELSE 'promo' END, CASE WHEN i > :keys THEN -1 ELSE :granted END,
        :granted - (i - 1) / :keys, CASE WHEN i > :keys THEN '/v1/personas' END,
        CASE WHEN i > :keys THEN 'req-' || CAST(i AS text) END, NULL,
        CASE WHEN i > :keys THEN NULL ELSE 'create:' || CAST(i AS text) END, 1700000000000 + i
    FROM n"""


@dataclass(frozen=True, slots=True)
class Books:
    """What was spent, what the keys have left, and the holds that are open."""

    spent: int
    left: int
    open_holds: int
    is_local: bool


@dataclass(frozen=True, slots=True)
class WrittenKey:
    """A key with its secret. `middle` is an entry in the middle of its history."""

    key_id: str
    secret: str
    middle: int


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Each statement is a transaction."""
    named = make_url(url)
    engine = create_engine(named.set(drivername="postgresql+psycopg") if named.drivername == "postgresql" else named)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection
    engine.dispose()


def read_books(url: str) -> Books:
    with connect(url) as connection:

        def number(query: str) -> int:
            return int(connection.execute(text(query)).scalar_one())

        return Books(
            spent=-number("SELECT coalesce(sum(amount), 0) FROM entries WHERE kind = 'spend'"),
            left=number("SELECT coalesce(sum(balance - held), 0) FROM keys"),
            open_holds=number("SELECT (SELECT count(*) FROM holds) + (SELECT count(*) FROM unkey_holds)"),
            is_local=not number("SELECT count(unkey_id) FROM keys"),
        )


def write_books(url: str, keys: int, entries: int) -> list[WrittenKey]:
    """Fill a migrated, empty database with keys that have spent a credit at a time, and so many entries in all.

    `entries` is a multiple of `keys`: the first of each is what it was given. A key's entries lie as far apart as they
    can, one per key, key after key: the worst case for who reads them.
    """
    written = [
        WrittenKey(new_key_id(), new_secret(), number + entries // keys // 2 * keys) for number in range(1, keys + 1)
    ]
    with connect(url) as connection:
        connection.execute(
            insert(keys_table), [_key_row(number, key, keys, entries) for number, key in enumerate(written, 1)]
        )
        statement = text(ENTRIES.format(numbers=NUMBERS[connection.dialect.name]))
        for first in range(1, entries + 1, STEP):
            values = {"first": first, "last": min(entries, first + STEP - 1), "keys": keys, "granted": GRANTED}
            connection.execute(statement, values)
        set_numbers(connection, {})
        if connection.dialect.name == "postgresql":
            # Autovacuum does it while a ledger grows by calls. Here all has come at once, and it would do it meanwhile.
            connection.execute(text("VACUUM (ANALYZE)"))
            connection.execute(text("CHECKPOINT"))
    return written


def _key_row(number: int, key: WrittenKey, keys: int, entries: int) -> dict[str, object]:
    return {
        "id": number,
        "key_id": key.key_id,
        "key_hash": hash_secret(key.secret.encode()),
        "start": key.secret[:START_LENGTH],
        "user_id": "bench",
        "balance": GRANTED - (entries - 1) // keys,
        "held": 0,
        "enabled": 1,
        "created_at": 0,
        "last_entry": entries - keys + number,
    }
