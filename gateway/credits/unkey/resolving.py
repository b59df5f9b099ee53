"""A person's word on what is in doubt. Where Unkey took credits in a key's first use, its count is asked what the key's
ledger lacks of them."""

from __future__ import annotations

import asyncio
from functools import partial

from gateway.credits.provider import Movement
from gateway.credits.unkey import keys, movements
from gateway.credits.unkey.client import UnkeyClient
from gateway.credits.unkey.doubts import Look, Moved
from gateway.database.engine import Database
from gateway.errors import CreditsUnavailable

UNSETTLED = "the key is in use, or a grant is on its way to it: try again when it has been quiet for some seconds"


async def resolve(database: Database, client: UnkeyClient, id: str, resolution: str) -> Movement | None:
    """See CreditsProvider.resolve_movement. Raises CreditsUnavailable, and then nothing has moved, where Unkey's count
    does not come to rest: it runs after what Unkey takes, and would say that the ledger lacks what calls have spent."""
    clock = asyncio.get_running_loop().time
    started = since = clock()
    last: Look | None = None
    while True:
        look = await _look(database, client, id) if resolution == "applied" else None
        now = clock()
        if look != last:
            last, since = look, now
        if look is None or _is_certain(look, now - since):
            try:
                return await database.transaction(partial(movements.resolve, id=id, resolution=resolution, look=look))
            except Moved:
                pass
        if now - started >= keys.LAG_SECONDS:
            raise CreditsUnavailable(cause=UNSETTLED)
        await asyncio.sleep(keys.LAG_LOOK_SECONDS)


async def _look(database: Database, client: UnkeyClient, id: str) -> Look | None:
    """None where Unkey need not be asked. The books first: what changes meanwhile, the transaction finds changed."""
    found = await database.read(partial(movements.read_standing, id=id))
    if found is None:
        return None
    standing, total = found
    remote = await client.get_key(standing.unkey_id)
    return Look(standing, total, None if remote is None else remote.credits)


def _is_certain(look: Look, still_seconds: float) -> bool:
    """A lag can only pretend that something is lacking, so where nothing is, nobody need wait."""
    if look.remaining is None:
        return True
    return not look.standing.is_moving and (not look.lack or still_seconds >= keys.STILL_SECONDS)
