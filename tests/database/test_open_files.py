"""A database whose files are taken away under a running gateway sells nothing more."""

from __future__ import annotations

import shutil

import pytest

from gateway.errors import CreditsUnavailable
from tests.credits.conftest import ledger, run  # noqa: F401 - fixtures


def take_log(path):
    path.with_name(path.name + "-wal").unlink()


def take_database(path):
    path.unlink()


def replace_database(path):
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    copy.replace(path)


@pytest.mark.parametrize("harm", [take_log, take_database, replace_database])
def test_nothing_is_sold_on_files_that_are_gone(ledger, run, harm):  # noqa: F811
    async def main():
        async with ledger.provider() as provider:
            secret, key = await provider.create("u", credits=10)
            await provider.settle(await provider.hold(secret.encode(), 1, "/x", "r1"), 1)
            harm(ledger.path)
            with pytest.raises(CreditsUnavailable) as refusal:
                await provider.hold(secret.encode(), 1, "/x", "r2")
            assert "restart the gateway" in refusal.value.cause
            with pytest.raises(CreditsUnavailable):
                await provider.grant(key.key_id, 5, "promo", "test", "g:1")

    run(main())


def test_a_database_that_stays_where_it_is_goes_on_selling(ledger, run):  # noqa: F811
    async def main():
        for number in range(3):
            async with ledger.provider() as provider, ledger.provider() as other:
                secret, key = await provider.create("u", credits=10)
                for one in (provider, other, provider):
                    await one.settle(await one.hold(secret.encode(), 1, "/x", f"r{number}{id(one)}{key.key_id}"), 1)
                assert (await provider.balance(key.key_id)).available == 7

    run(main())
