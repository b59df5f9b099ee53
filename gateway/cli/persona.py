"""The sandbox's persona service beside `gateway dev`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.cli.stand_in import local_port, stand_in

if TYPE_CHECKING:
    from gateway.config.tree import Config


@contextmanager
def persona_service(config: Config) -> Iterator[tuple[Config, str | None]]:
    """Run the service where the config's first upstream is expected.

    Gives the config to serve, its target moved to a free port where the expected one is taken, and the service's
    address; None (and the config as it was) where the first upstream is not on this machine.
    """
    upstream = next(iter(config.upstreams), None)
    wanted = local_port(config.upstreams[upstream].base_urls[0]) if upstream is not None else None
    if upstream is None or wanted is None:
        yield config, None
        return
    with stand_in("gateway.sandbox.persona", port=wanted) as address:
        yield _moved(config, upstream, address), address


def _moved(config: Config, upstream: str, address: str) -> Config:
    """The config with the service's address as the upstream's only target, under the path that it had."""
    section = config.upstreams[upstream]
    targets = (address + urlsplit(section.base_urls[0]).path,)
    upstreams = {**config.upstreams, upstream: section.model_copy(update={"targets": targets})}
    return config.model_copy(update={"upstreams": upstreams})
