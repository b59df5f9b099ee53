"""A shop, for each keeper of keys."""

from __future__ import annotations

import pytest
import uvloop

from tests.billing.harness import Shop


@pytest.fixture(params=["local", "unkey"])
def shop(request, tmp_path):
    return Shop(tmp_path / "gateway.db", request.param)


@pytest.fixture
def local_shop(tmp_path):
    return Shop(tmp_path / "gateway.db")


@pytest.fixture
def run():
    return uvloop.run
