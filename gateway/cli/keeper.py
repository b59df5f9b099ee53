"""Who keeps keys and credits beside `gateway dev`: the config's provider, or the sandbox's stand-in for Unkey."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gateway.cli.stand_in import stand_in

if TYPE_CHECKING:
    from gateway.config.tree import Config


@contextmanager
def keeper(config: Config, provider: str | None) -> Iterator[tuple[Config, str | None]]:
    """The config to serve, and the address of the stand-in for Unkey where one runs while the block does.

    The stand-in forgets its keys when it stops, so a database of its own goes with it: the configured one would fill
    with keys that nobody knows.
    """
    if provider != "unkey":
        yield (config if provider is None else _kept_by(config, provider=provider)), None
        return
    with TemporaryDirectory(prefix="gateway-dev-") as directory, stand_in("gateway.sandbox.unkey") as address:
        yield _with_stand_in(config, Path(directory), address), address


def _with_stand_in(config: Config, directory: Path, address: str) -> Config:
    from gateway.config.tree import DatabaseSection, UnkeySection
    from gateway.sandbox.unkey.server import API_ID, ROOT_KEY

    unkey = UnkeySection.model_validate({"api_id": API_ID, "root_key": ROOT_KEY, "base_url": address})
    database = DatabaseSection.model_validate({"url": f"sqlite:///{directory / 'gateway.db'}"})
    return _kept_by(config, provider="unkey", unkey=unkey).model_copy(update={"database": database})


def _kept_by(config: Config, **changes: object) -> Config:
    return config.model_copy(update={"credits": config.credits.model_copy(update=changes)})
