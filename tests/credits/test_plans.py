"""PostgreSQL finds the journal's rows by index, whatever it thinks of its tables. It thinks that they are empty when it
has looked at them between two calls."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from gateway.credits.provider import NO_POLICY, Policy, RateLimit
from tests.credits.claiming import claim, ledger_of
from tests.credits.conftest import until

pytestmark = pytest.mark.pure

TABLES = {
    "local-postgresql": {"holds", "keys", "instances", "spend_caps", "rate_windows", "answers"},
    "unkey-postgresql": {"unkey_holds", "keys", "instances", "spend_caps", "answers"},
}
LIMITED = Policy(rate_limit=RateLimit(100, 60))


async def call(provider, secret, name, policy=NO_POLICY, claimed=None):
    hold = await provider.hold(secret.encode(), 1, "/x", name, policy, claimed)
    await provider.keep(hold)
    await provider.settle(hold, 1)


def vacuum(ledger):
    """With keys enough for an index to be worth it, and no calls."""
    with psycopg.connect(ledger.url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO keys (id, key_id, key_hash, start, user_id, name, permissions, balance, held, capped,"
            " enabled, created_at)"
            " SELECT 1000000 + g, 'k' || g, sha256(g::text::bytea), '', 'u', '', '', 0, 0, 0, 1, 0"
            " FROM generate_series(1, 1000) g"
        )
        connection.execute(
            "INSERT INTO spend_caps (key, day_cap, day, day_spent, month, month_spent)"
            " SELECT id, 1, 0, 0, 0, 0 FROM keys ON CONFLICT DO NOTHING"
        )
        connection.execute("VACUUM ANALYZE")


def plans_of(provider):
    """Of all that the journal has asked, as its own connection plans it now; and how often it made one for values."""
    connection = provider.journal._transaction._store._pipeline.connection
    asked = connection.execute("SELECT statement, custom_plans FROM pg_prepared_statements").fetchall()
    answers = {one: connection.pgconn.exec_(f"EXPLAIN (GENERIC_PLAN) {one}".encode()) for one, _ in asked}
    plans = {
        one: "\n".join(answer.get_value(row, 0).decode() for row in range(answer.ntuples))
        for one, answer in answers.items()
        if answer.ntuples  # BEGIN and COMMIT have no plan
    }
    return plans, sum(count for one, count in asked if one in plans)


def reads_a_whole_table(plan):
    """By itself, or by an index, every row of it."""
    lines = [line.strip() for line in plan.splitlines()] + [""]
    by_index = [at for at, line in enumerate(lines) if "Index Scan" in line or "Index Only Scan" in line]
    return "Seq Scan" in plan or any("Index Cond" not in lines[at + 1] for at in by_index)


@pytest.mark.parametrize("keeper", TABLES)
def test_no_table_is_read_as_a_whole_though_it_was_empty_when_it_was_vacuumed(keeper, database_of, run):
    ledger = ledger_of(keeper, database_of)

    async def main():
        async with ledger.provider() as provider:
            secret, _ = await provider.create("u", credits=100)
            capped, _ = await provider.create("u", credits=100, spend_caps={"day": 10})
            vacuum(ledger)
            for number in range(3):  # one after the other, and two at once
                await call(provider, secret, f"plain{number}")
                await call(provider, capped, f"capped{number}")
                await call(provider, secret, f"limited{number}", LIMITED)
                await call(provider, secret, f"claimed{number}", claimed=claim(str(number % 2)))
                await asyncio.gather(*(call(provider, secret, f"{which}{number}") for which in "ab"))
            await until(lambda: not provider.journal.pending)
            plans, custom = plans_of(provider)
            assert {
                table for table in TABLES[keeper] if any(f" on {table}" in plan for plan in plans.values())
            } == TABLES[keeper]
            assert [f"{one}\n{plan}" for one, plan in plans.items() if reads_a_whole_table(plan)] == []
            assert custom == 0

    run(main())
