"""A ledger of each provider, and a way to run a test against a control plane on it."""

from __future__ import annotations

import pytest
import uvloop

from tests.api.harness import open_api
from tests.credits.conftest import Ledger, clock
from tests.credits.unkey.harness import UnkeyLedger
from tests.database.postgres import KEEPERS

__all__ = ["clock"]


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "gateway.db")


@pytest.fixture(params=KEEPERS)
def any_ledger(request, database_of):
    keeper, kind = request.param.split("-")
    return {"local": Ledger, "unkey": UnkeyLedger}[keeper](database_of(kind))


@pytest.fixture
def with_api(ledger):
    """`with_api(test, …)` runs `await test(api)` and audits the books after it."""
    return lambda test, **options: _run(ledger, test, options)


@pytest.fixture
def with_any_api(any_ledger):
    """The same with each provider."""
    return lambda test, **options: _run(any_ledger, test, options)


def _run(ledger, test, options):
    async def main():
        async with open_api(ledger, **options) as api:
            await test(api)

    uvloop.run(main())
    ledger.audit()
