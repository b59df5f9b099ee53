"""Claims as the endpoint makes them, whoever keeps keys and credits."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

from gateway.credits.claims import Claim
from gateway.credits.provider import NO_POLICY
from tests.credits.conftest import Ledger
from tests.credits.unkey.harness import UnkeyLedger

KEEPERS = ("local-sqlite", "local-postgresql", "unkey-sqlite", "unkey-postgresql")


def ledger_of(keeper, database_of):
    provider, kind = keeper.split("-")
    return {"local": Ledger, "unkey": UnkeyLedger}[provider](database_of(kind))


def claim(name: str = "a", asked: str = "x", keep_ms: int = 60_000) -> Claim:
    return Claim(name.encode().ljust(32, b"."), asked.encode().ljust(32, b"."), keep_ms)


NUMBERS = count()


async def take(provider, secret, wanted, cost=3, policy=NO_POLICY):
    return await provider.hold(secret.encode(), cost, "/x", f"r{next(NUMBERS)}", policy, wanted)


async def ask(provider, secret, name="a", cost=3, **rest):
    """What a call that comes now would find."""
    wanted = claim(name)
    hold = await take(provider, secret, wanted, cost, **rest)
    found = wanted.precedent
    if found is None:
        return hold, None
    answer = await provider.find_answer(wanted) if found.has_answer else None
    return hold, SimpleNamespace(fingerprint=found.fingerprint, is_done=found.is_done, answer=answer)


def records_of(ledger):
    return ledger.rows("SELECT done, answer FROM answers ORDER BY lookup")
