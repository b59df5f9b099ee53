"""Which examinations a config asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from gateway.config.tree import Config, CreditsSection, UnkeySection, UpstreamSection
from gateway.deadlines import Deadlines
from gateway.doctor.billing import examine_stripe
from gateway.doctor.database import examine_database
from gateway.doctor.diagnosis import Diagnosis, ok
from gateway.doctor.examination import Examination
from gateway.doctor.unkey import UnkeyExamination
from gateway.doctor.unkey_api import CALL_SECONDS, UnkeyApi
from gateway.doctor.upstreams import examine_upstream
from gateway.upstreams.open import open_transports


def examinations_of(config: Config) -> list[Examination]:
    """In the order in which they are told."""
    url = config.database.url.get_secret_value()
    found = [Examination("database", partial(examine_database, url)), _credits(config.credits)]
    found += [
        Examination(f"upstream {name}", partial(examine_upstream, name, section))
        for name, section in config.upstreams.items()
    ]
    stripe = config.billing.stripe
    if stripe is not None:
        found.append(Examination("stripe", partial(examine_stripe, stripe)))
    return found


def _credits(section: CreditsSection) -> Examination:
    if section.provider == "local" or section.unkey is None:
        return Examination("credits", _examine_local)
    return Examination("unkey", partial(_examine_unkey, section.unkey))


async def _examine_local() -> AsyncIterator[Diagnosis]:
    yield ok("credits", "local: keys and credits are in the database")


async def _examine_unkey(section: UnkeySection) -> AsyncIterator[Diagnosis]:
    loop = asyncio.get_running_loop()
    settings = UpstreamSection(
        targets=(section.base_url,), response_timeout_seconds=CALL_SECONDS, idle_timeout_seconds=CALL_SECONDS
    )
    deadlines = Deadlines(loop)
    transport = open_transports({"unkey": settings}, deadlines, loop)["unkey"]
    try:
        async for diagnosis in UnkeyExamination(section, UnkeyApi(transport)).run():
            yield diagnosis
    finally:
        await transport.aclose()
        deadlines.close()
