"""Each target of each upstream: can it be connected to?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.config.tree import UpstreamSection
from gateway.doctor.diagnosis import Diagnosis, fail, ok, warn
from gateway.doctor.reach import OutOfReach, reach, shown_ms

CONNECT_SECONDS_MAX = 8.0
"""An upstream may be given longer to connect; a person who waits is not."""


async def examine_upstream(name: str, section: UpstreamSection) -> AsyncIterator[Diagnosis]:
    """One diagnosis for each target. Nothing is sent to any."""
    for diagnosis in await asyncio.gather(*(_examine(name, target, section) for target in section.base_urls)):
        yield diagnosis


async def _examine(name: str, target: str, section: UpstreamSection) -> Diagnosis:
    what = f"upstream {name}: {target}"
    if section.proxy_url is not None or section.trust_env:
        return warn(what, "not tried: calls go there through a proxy")
    allowed_seconds = section.connect_timeout_seconds
    try:
        seconds = await reach(target, section.tls, min(allowed_seconds, CONNECT_SECONDS_MAX))
    except OutOfReach as error:
        return fail(what, str(error))
    return ok(what, f"connects in {shown_ms(seconds)}")
