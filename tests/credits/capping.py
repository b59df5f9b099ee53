"""Calls of keys with spend caps, and the audit of what is counted."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

import pytest

from gateway.credits.periods import DAY_MS
from gateway.errors import SpendCapReached
from tests.credits.conftest import NOON

NUMBERS = count()
MIDNIGHT = NOON + DAY_MS // 2
APRIL = int(datetime(2030, 4, 1, tzinfo=UTC).timestamp() * 1000)
"""When the day and the month of the clock's noon end."""


async def take(provider, secret, cost):
    return await provider.hold(secret.encode(), cost, "/x", f"cap{next(NUMBERS)}")


async def spend(provider, secret, cost):
    await provider.settle(await take(provider, secret, cost), cost)


async def refused(provider, secret, cost):
    """The members of the refusal."""
    with pytest.raises(SpendCapReached) as caught:
        await take(provider, secret, cost)
    return caught.value.members


async def spent(provider, key_id):
    """What is shown as spent in the running day and month; None without such a cap."""
    caps = (await provider.get(key_id)).spend_caps
    return tuple(None if cap is None else cap.spent for cap in (caps.day, caps.month))


def audit_caps(ledger):
    """Of keys whose holds ended in the day in which they began: what is counted is what the ledger and the open holds
    say. And a key says that it is capped where it has a row, and only there."""
    ledger.audit()
    for number, *counts in ledger.rows("SELECT key, day, day_spent, month, month_spent FROM spend_caps"):
        for since, counted in (counts[:2], counts[2:]):
            moves = ledger.rows(
                """SELECT -amount FROM entries WHERE key = ? AND kind = 'spend' AND created_at >= ?
                   UNION ALL SELECT cost FROM holds WHERE key = ? AND created_at >= ?
                   UNION ALL SELECT cost FROM unkey_holds WHERE key = ? AND created_at >= ?""",
                *(number, since) * 3,
            )
            assert counted == sum(amount for (amount,) in moves), f"key {number}, since {since}: {moves}"
    query = "SELECT key_id FROM keys WHERE capped != (SELECT count(*) FROM spend_caps WHERE key = keys.id)"
    assert ledger.rows(query) == []
