"""Records of calls that are done once, in SQL: what is done to them beside their holds (claims.py has the rest).

What is kept is bounded by time (each route's `keep_seconds`), by size and by number. Where there is too much, answers
go before records: of a call whose answer is gone it is still known that it was done, so a repeat is not charged again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection, Select, Table, delete, func, or_, select, update

from gateway.credits.claims import Claim
from gateway.database.engine import Database
from gateway.database.tables import answers

logger = logging.getLogger("gateway.credits")

ANSWERS_MAX_BYTES = 1 << 30
"""All answers together. Beyond it the oldest are forgotten; their records stay."""
RECORDS_MAX = 1_000_000
"""All records together, of about 200 bytes each beside the answer. Beyond it the oldest are forgotten."""
PRUNE_MAX = 500
"""Rows changed in one transaction, for holds wait as long as it lasts."""


def add(connection: Connection, hold: int, claim: Claim) -> None:
    """Add the answer to the record, if it is still that hold's."""
    mine = answers.c.lookup == claim.lookup, answers.c.hold == hold, answers.c.done == 1
    values = {"answer": claim.answer, "size": len(claim.answer or b"")}
    connection.execute(update(answers).where(*mine).values(**values))


def find(connection: Connection, claim: Claim) -> bytes | None:
    """The answer to what the claim asks; None where it is gone."""
    asked = answers.c.lookup == claim.lookup, answers.c.fingerprint == claim.fingerprint
    found: bytes | None = connection.execute(select(answers.c.answer).where(*asked)).scalar()
    return found


class Pruner:
    """Forgets what is old or too much. `holds`: the table of them that says whether a call still runs."""

    def __init__(
        self,
        database: Database,
        holds: Table,
        now_ms: Callable[[], int],
        *,
        answers_max_bytes: int = ANSWERS_MAX_BYTES,
        records_max: int = RECORDS_MAX,
    ) -> None:
        self._database = database
        self._holds = holds
        self._now_ms = now_ms
        self._answers_max_bytes = answers_max_bytes
        self._records_max = records_max

    async def forget(self) -> None:
        """In steps of PRUNE_MAX rows. Raises CreditsUnavailable."""
        transaction = self._database.transaction
        while await transaction(partial(forget_old, holds=self._holds, now=self._now_ms())) == PRUNE_MAX:
            pass
        count, size = await self._database.read(measure)
        if count > self._records_max:
            logger.warning("%d records of calls with an Idempotency-Key: the oldest are forgotten early", count)
        surplus = count - self._records_max
        while surplus > 0:
            gone = await transaction(partial(forget_oldest, holds=self._holds, most=min(surplus, PRUNE_MAX)))
            surplus = surplus - gone if gone else 0
        if size > self._answers_max_bytes:
            logger.warning("%d bytes of answers kept for an Idempotency-Key: the oldest are forgotten early", size)
        surplus = size - self._answers_max_bytes
        while surplus > 0:
            freed = await transaction(partial(drop_answers, size=surplus))
            surplus = surplus - freed if freed else 0


def measure(connection: Connection) -> tuple[int, int]:
    """How many records there are, and the size of their answers. Read from the index alone."""
    count, size = connection.execute(select(func.count(), func.coalesce(func.sum(answers.c.size), 0))).one()
    return int(count), int(size)


def forget_old(connection: Connection, holds: Table, now: int) -> int:
    """Delete some of the records whose time is over; how many."""
    return _delete(connection, _idle(holds).where(answers.c.expires_at <= now).limit(PRUNE_MAX))


def forget_oldest(connection: Connection, holds: Table, most: int) -> int:
    """Delete the oldest records; how many."""
    return _delete(connection, _idle(holds).order_by(answers.c.expires_at).limit(most))


def drop_answers(connection: Connection, size: int) -> int:
    """Forget the oldest answers, of so many bytes or some of them; how many bytes."""
    oldest = select(answers.c.lookup, answers.c.size).where(answers.c.size > 0).order_by(answers.c.expires_at)
    lookups, freed = [], 0
    for lookup, length in connection.execute(oldest.limit(PRUNE_MAX).with_for_update(skip_locked=True)):
        if freed >= size:
            break
        lookups.append(lookup)
        freed += length
    connection.execute(update(answers).where(answers.c.lookup.in_(lookups)).values(answer=None, size=0))
    return freed


def _idle(holds: Table) -> Select[tuple[bytes]]:
    """Records of calls that don't run."""
    runs = select(holds.c.id).where(holds.c.id == answers.c.hold).exists()
    return select(answers.c.lookup).where(or_(answers.c.done == 1, ~runs))


def _delete(connection: Connection, which: Select[tuple[bytes]]) -> int:
    which = which.with_for_update(skip_locked=True, of=answers)
    return connection.execute(delete(answers).where(answers.c.lookup.in_(which))).rowcount
