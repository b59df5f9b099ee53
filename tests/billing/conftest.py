"""A shop, for each keeper of keys."""

from __future__ import annotations

import pytest
import uvloop

from tests.billing.harness import Shop
from tests.database.postgres import KEEPERS


@pytest.fixture(params=KEEPERS)
def shop(request, database_of):
    keeper, kind = request.param.split("-")
    return Shop(database_of(kind), keeper)


@pytest.fixture
def local_shop(tmp_path):
    return Shop(tmp_path / "gateway.db")


@pytest.fixture
def run():
    return uvloop.run
