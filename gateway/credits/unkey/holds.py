"""A hold whose credits come from the key's pool here and, for the rest, from Unkey.

    ASKED ──Unkey: VALID──▶ GRANTED ──settle, release──▶ (gone; what is not kept stays in the pool)
      ├────Unkey: refused, or never asked──▶ REFUSED ──▶ (gone, as if it had never been)
      └────no answer──▶ DOUBTFUL ──▶ (a row of `doubts`, for a person)

The row is written in state ASKED before Unkey is asked, so that no credit it may have taken is forgotten, whoever dies
when. The row itself does not know of the answer unless CONFIRM_SECONDS pass: a quick call is over by then.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum

from gateway.credits.batch import End, Take
from gateway.credits.claims import Claim
from gateway.credits.provider import Hold


class State(IntEnum):
    """What is known of the verify."""

    ASKED = 0
    GRANTED = 1
    REFUSED = 2
    DOUBTFUL = 3


class UnkeyHold(Hold):
    """`drawn` credits come from the pool, `asked` is what Unkey is asked for, `debited` what it then took (0 for an
    unlimited key). `pool` is the allotment left beside it; `others` what other holds of the key had drawn.
    `is_left`: its caller left while Unkey was asked, and a task of its own waits for the answer."""

    __slots__ = (
        "asked",
        "cause",
        "debited",
        "drawn",
        "is_answered",
        "is_ended",
        "is_left",
        "key_hash",
        "others",
        "pool",
        "state",
    )

    def __init__(self, id: int, key: int, key_id: str, user_id: str, cost: int, key_hash: bytes) -> None:
        super().__init__(id, key, key_id, user_id, cost, None)
        self.key_hash = key_hash
        self.state = State.ASKED
        self.asked = cost
        self.drawn = 0
        self.debited = 0
        self.pool = 0
        self.others = 0
        self.is_answered = False
        self.is_ended = False
        self.is_left = False
        self.cause = ""

    def grant(self, remaining: int | None) -> None:
        """Unkey said yes and has `remaining` credits left; None: the key is unlimited there."""
        self.state = State.GRANTED
        if remaining is not None:
            self.debited = self.asked
            self.available = remaining + self.pool

    def balance_after(self, kept: int) -> int | None:
        """What the key has once `kept` of this hold is spent, as far as Unkey's answer told."""
        return None if self.available is None else self.available + self.others + self.cost - kept


class UnkeyTake(Take):
    """`number` is the row of the key, 0 where it was never seen."""

    __slots__ = ("number",)

    def __init__(
        self,
        future: asyncio.Future[Hold],
        key_hash: bytes,
        cost: int,
        route: str,
        request_id: str,
        since: float,
        number: int,
        claim: Claim | None = None,
    ) -> None:
        super().__init__(future, key_hash, cost, route, request_id, since, claim=claim)
        self.number = number


class Confirm(End):
    """Not an end: write down that Unkey has granted the hold."""

    __slots__ = ()

    is_answer = False
