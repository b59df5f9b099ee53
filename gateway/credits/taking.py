"""Asking the journal for a hold, and waiting until it is there."""

from __future__ import annotations

import asyncio

from gateway.credits.claims import Claim
from gateway.credits.journal import Journal
from gateway.credits.provider import Hold, Policy


async def take_hold(
    journal: Journal, key_hash: bytes, cost: int, route: str, request_id: str, policy: Policy, claim: Claim | None
) -> Hold:
    """See CreditsProvider.hold: who is cancelled here leaves no hold behind."""
    taken = journal.take(key_hash, cost, route, request_id, policy, claim)
    try:
        return await taken
    except asyncio.CancelledError:
        # Cancelled in the very turn in which the hold arrived: the future has it, and nobody else ever will.
        if taken.done() and not taken.cancelled() and taken.exception() is None:
            journal.end(taken.result(), 0, "abandoned")
        raise
