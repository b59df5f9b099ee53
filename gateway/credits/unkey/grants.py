"""Grants in SQL: entries of the ledger and how far each has got on its way to Unkey.

    pending ──claim──▶ sending ──200──▶ applied
       ▲                  │ └─surely not applied─▶ pending (later) or failed
       │                  └─no answer, or the process died─▶ in_doubt
       └──resolved: not applied── in_doubt ──resolved: applied──▶ applied

The entry and its grant are written in one transaction, once per reference. One grant at a time is under way for a key,
in the order of their ids: only so can it be told later whether one in doubt took effect. A grant that fails for good
gets a second entry that takes the first back, so that the books go on saying what is true.

Each function is one transaction's work on a SQLAlchemy connection.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, and_, exists, func, insert, or_, select, text, update

from gateway.credits.ledger import append_entry, find_grant, lock_key, now_ms
from gateway.credits.provider import CREDITS_MAX, Entry
from gateway.credits.unkey import books, evidence
from gateway.credits.unkey.grant import Evidence, Grant
from gateway.database.tables import entries, grants, instances, keys, retired_keys
from gateway.errors import Conflict, Invalid

UNSETTLED = ("pending", "sending", "in_doubt")
IS_UNSETTLED = "state IN ('pending', 'sending', 'in_doubt')"
"""In the words of the index `grants_unsettled`: SQLite uses it for nothing that comes as a parameter, and whoever looks
for work several times a second must not read all that was ever granted."""
TAKING = "took effect; calls that were under way may have been quicker"
ROTATING = "waits for the key's rotation: if that failed, rotate it again or revoke it"
OLDEST_FIRST = text("+grants.id")
"""Without the + SQLite reads the whole table in its order, and sorts nothing."""


def accept(
    connection: Connection, key_id: str, amount: int, kind: str, reason: str, reference: str, remaining: int
) -> tuple[Entry, int]:
    """Write the entry and put its grant on the way, once per reference. `remaining` is what Unkey says the key has.

    Returns the entry and the grant's id, 0 where there is none. Raises Invalid, Conflict.
    """
    key = _key(connection, key_id, lock=True)
    done = find_done(connection, key_id, amount, kind, reference)
    if done is not None:
        return done[0], done[1].id if done[1] is not None else 0
    available = remaining + key.balance - key.held
    if available + amount > CREDITS_MAX:
        raise Invalid("Too many credits.", errors={"amount": f"a key may have {CREDITS_MAX} credits at most"})
    there = remaining + _read_to_take(connection, key.id)
    if amount < 0 and there + amount < 0:
        wanted = f"only {max(0, there)} credits can be taken at Unkey"
        raise Invalid("Not so many are there.", errors={"amount": wanted})
    entry = append_entry(
        connection,
        key,
        amount=amount,
        kind=kind,
        reason=reason,
        reference=reference,
        balance_after=remaining + key.balance + books.read_asked(connection, key.id) + amount,
    )
    now = now_ms()
    row = {"key": key.id, "entry": entry.id, "amount": amount, "state": "pending", "attempts": 0}
    result = connection.execute(insert(grants).values(**row, due_at=now, created_at=now, updated_at=now))
    assert result.inserted_primary_key is not None
    return entry, int(result.inserted_primary_key[0])


def find_done(
    connection: Connection, key_id: str, amount: int, kind: str, reference: str
) -> tuple[Entry, Grant | None] | None:
    """The entry of a reference that was accepted before, and its grant. Raises Invalid, Conflict."""
    entry = find_grant(connection, _key(connection, key_id), amount, kind, reference)
    if entry is None:
        return None
    row = connection.execute(_select().where(grants.c.entry == entry.id)).first()
    return entry, None if row is None else _grant(row)


def read_due(connection: Connection, limit: int = 16) -> list[Grant]:
    """Pending grants whose time has come, and of each key only the oldest unsettled one; none of a key that is being
    rotated: what it would be given might not be what goes on."""
    due = grants.c.state == "pending", grants.c.due_at <= now_ms(), ~_has_older(), ~_is_retired()
    query = _select().where(_is_unsettled(), *due)
    return [_grant(row) for row in connection.execute(query.order_by(OLDEST_FIRST).limit(limit))]


def is_sending(connection: Connection, number: int) -> bool:
    """Whether a grant of the key is under way."""
    mine = _is_unsettled(), grants.c.key == number, grants.c.state == "sending"
    return bool(connection.execute(select(exists().where(*mine))).scalar_one())


def read_on_the_way(connection: Connection, number: int) -> tuple[int, bool]:
    """Credits of the key's grants that are not known to be at Unkey, and whether some of them may be there."""
    columns = func.coalesce(func.sum(grants.c.amount), 0), func.count().filter(grants.c.state != "pending")
    amount, sent = connection.execute(select(*columns).where(_is_unsettled(), grants.c.key == number)).one()
    return int(amount), sent > 0


# From state to state. Whoever acts on a grant as it has read it finds out here whether that still holds: another
# process may have looked at it, sent it or been told by a person meanwhile. `attempts` tells one sending from the next.


def claim(connection: Connection, grant: Grant, owner: int, remaining: int) -> Grant | None:
    """Begin to send, with what Unkey had before: the grant then. None if somebody else was quicker, or the key has
    another name at Unkey since."""
    key = _lock(connection, grant.id)
    pending = _still(grant), grants.c.state == "pending", ~_has_older(), keys.c.unkey_id == grant.unkey_id
    row = connection.execute(_select().where(*pending, ~_is_retired())).first()
    if row is None or key is None:
        return None
    _set(
        connection,
        grant.id,
        state="sending",
        owner=owner,
        attempts=grant.attempts + 1,
        sent_at=now_ms(),
        remaining_before=remaining,
        pool_before=key.balance,
        last_entry_before=key.last_entry,
        uncertain_before=evidence.read_moving(connection, key),
        remaining_after=None,
        cause=None,
    )
    return find(connection, grant.id)


def apply(connection: Connection, grant: Grant, remaining: int | None) -> None:
    """It took effect; Unkey says what remains there. What it should have taken and did not find goes back into the
    ledger: if nothing remains, once the calls have ended that may have been quicker."""
    key = _lock(connection, grant.id)
    row = _find_still(connection, grant)
    if row is None or key is None:
        return
    if row.amount < 0 and remaining == 0:
        answered_at = now_ms() if row.remaining_after is None else row.due_at
        if evidence.has_open(connection, row.key, row.sent_at, answered_at):
            if row.remaining_after is None:
                _set(connection, grant.id, state="in_doubt", due_at=answered_at, remaining_after=0, cause=TAKING)
            return
    _set(connection, grant.id, state="applied", remaining_after=remaining, cause=None)
    if row.amount < 0:
        _give_back(connection, row, -row.amount - _read_taken(connection, row, remaining))


def lack(connection: Connection, grant: Grant) -> None:
    """There was nothing at Unkey that could be taken."""
    _lock(connection, grant.id)
    row = _find_still(connection, grant)
    if row is not None:
        _set(connection, grant.id, state="applied", remaining_before=0, remaining_after=0, cause=None)
        _give_back(connection, row, -row.amount)


def postpone(connection: Connection, grant: Grant, due_at: int, cause: str) -> None:
    """It surely did not take effect: again at `due_at`."""
    _lock(connection, grant.id)
    if _find_still(connection, grant) is not None:
        _set(connection, grant.id, state="pending", due_at=due_at, cause=cause)


def doubt(connection: Connection, grant: Grant, due_at: int, cause: str) -> None:
    """Nobody knows whether it took effect: look at `due_at`."""
    _lock(connection, grant.id)
    row = _find_still(connection, grant)
    if row is not None and row.state != "pending":  # else somebody has found out by now
        _set(connection, grant.id, state="in_doubt", due_at=due_at, cause=cause)


def fail(connection: Connection, grant: Grant, cause: str) -> None:
    """It can't be done, ever. A second entry takes the first back. But if the key was rotated meanwhile, what was said
    of its old name says nothing of it: it is to be sent to the new one, or if it is in doubt, to be looked at again."""
    key = _lock(connection, grant.id)
    row = _find_still(connection, grant)
    if row is None or key is None:
        return
    if row.unkey_id != grant.unkey_id or row.is_retired:
        if grant.state != "in_doubt":
            _set(connection, grant.id, state="pending", due_at=now_ms(), cause="the key was rotated")
        return
    _set(connection, grant.id, state="failed", cause=cause)
    append_entry(
        connection,
        key,
        amount=-row.amount,
        kind="adjustment",
        reason=f"could not be applied: {cause}",
        reference=f"failed:{row.reference}",
        balance_after=None,
    )


def set_aside(connection: Connection, grant: Grant, due_at: int) -> None:
    """What became of it can't be written down: a person must look. It is not sent again by itself."""
    _lock(connection, grant.id)
    if _find_still(connection, grant) is not None:
        cause = "what became of it can't be written down"
        _set(connection, grant.id, state="in_doubt", due_at=due_at, remaining_after=None, cause=cause)


def count_orphans(connection: Connection) -> int:
    """How many grants a dead process was sending."""
    return int(connection.execute(select(func.count()).select_from(grants).where(_orphaned())).scalar_one())


def doubt_orphans(connection: Connection, due_in_ms: int) -> None:
    """Of what a dead process was sending, nobody knows whether it took effect."""
    values = {"state": "in_doubt", "due_at": grants.c.sent_at + due_in_ms, "updated_at": now_ms()}
    connection.execute(update(grants).where(_orphaned()).values(**values, cause="gateway died"))


def read_doubtful(connection: Connection, lag_ms: int, limit: int = 16) -> list[Evidence]:
    """Grants in doubt that are due for a look, with the evidence. Unkey's count may lag behind by `lag_ms`."""
    query = _select().where(_is_unsettled(), grants.c.state == "in_doubt", grants.c.due_at <= now_ms())
    rows = connection.execute(query.order_by(OLDEST_FIRST).limit(limit)).all()
    return [_evidence(connection, row, lag_ms) for row in rows]


def read_evidence(connection: Connection, grant: Grant, lag_ms: int) -> Evidence | None:
    """The evidence of one grant as it is now; None if the grant is not as it was."""
    row = _find_still(connection, grant)
    return None if row is None else _evidence(connection, row, lag_ms)


def resolve(connection: Connection, grant_id: int, resolution: str) -> Grant | None:
    """A person's word on a grant in doubt: `applied`, or `not-applied` (it is sent again). None if there is no such
    grant. Raises Conflict where it is not in doubt."""
    _lock(connection, grant_id)
    row = connection.execute(_select().where(grants.c.id == grant_id)).first()
    if row is None:
        return None
    if row.state != "in_doubt":
        raise Conflict(f"It is not in doubt but {row.state}.")
    if row.remaining_after is not None:
        raise Conflict("It took effect. How much it took is known when the key's open calls have ended.")
    if resolution == "applied":
        apply(connection, _grant(row), None)
    else:
        postpone(connection, _grant(row), now_ms(), "resolved as not applied")
    return find(connection, grant_id)


def find(connection: Connection, grant_id: int) -> Grant | None:
    row = connection.execute(_select().where(grants.c.id == grant_id)).first()
    return None if row is None else _grant(row)


def list_grants(connection: Connection, *, unsettled: bool, before: int | None = None, limit: int = 100) -> list[Grant]:
    """Grants, newest first, older than the id `before`."""
    query = _select().order_by(grants.c.id.desc()).limit(limit)
    if unsettled:
        query = query.where(or_(grants.c.state.in_(UNSETTLED), grants.c.state == "failed"))
    if before is not None:
        query = query.where(grants.c.id < before)
    return [_grant(row) for row in connection.execute(query)]


def _read_taken(connection: Connection, row: Row[Any], remaining: int | None) -> int:
    """What was taken at Unkey. Where nothing remains, calls may have taken some of it first."""
    asked = -row.amount if row.remaining_before is None else -_grant(row).asked(row.remaining_before)
    if remaining != 0:
        return asked
    # Of calls that were open when the count was read, it shows what was taken.
    later = max(0, evidence.read_debited(connection, row) - (row.uncertain_before or 0))
    return int(max(0, min(asked, (row.remaining_before or 0) - later)))


def _read_to_take(connection: Connection, number: int) -> int:
    """What is on its way to be taken from the key at Unkey: negative, or 0."""
    mine = _is_unsettled(), grants.c.key == number, grants.c.amount < 0
    return int(connection.execute(select(func.coalesce(func.sum(grants.c.amount), 0)).where(*mine)).scalar_one())


def _give_back(connection: Connection, row: Row[Any], amount: int) -> None:
    if amount > 0:
        append_entry(
            connection,
            connection.execute(select(keys).where(keys.c.id == row.key)).one(),
            amount=amount,
            kind="adjustment",
            reason="was not there any more at Unkey",
            reference=f"short:{row.reference}",
            balance_after=None,
        )


def _evidence(connection: Connection, row: Row[Any], lag_ms: int) -> Evidence:
    debited, uncertain = evidence.read_debited(connection, row), evidence.read_uncertain(connection, row, lag_ms)
    return Evidence(_grant(row), debited, uncertain)


def _orphaned() -> Any:
    return and_(_is_unsettled(), grants.c.state == "sending", grants.c.owner.not_in(select(instances.c.id)))


def _is_unsettled(name: str = "grants") -> Any:
    return text(f"{name}.{IS_UNSETTLED}")


def _has_older() -> Any:
    older = grants.alias("older")
    return exists().where(older.c.key == grants.c.key, older.c.id < grants.c.id, _is_unsettled("older"))


def _is_retired() -> Any:
    """Whether the key is being rotated. Of one that is revoked nothing is to go on."""
    return exists().where(retired_keys.c.unkey_id == keys.c.unkey_id, keys.c.revoked_at.is_(None))


def _still(grant: Grant) -> Any:
    return and_(grants.c.id == grant.id, grants.c.attempts == grant.attempts)


def _find_still(connection: Connection, grant: Grant) -> Row[Any] | None:
    """The grant as it is, where what is known of it may still be written down. What became of a sending may be, as
    long as nobody has sent it again; what else was found out only if the state is what it was."""
    query = _select().where(_still(grant))
    if grant.state == "sending":
        query = query.where(grants.c.state.in_(UNSETTLED))
    else:
        same = grants.c.remaining_after.is_not_distinct_from(grant.remaining_after)
        query = query.where(grants.c.state == grant.state, same)
    return connection.execute(query).first()


def _set(connection: Connection, grant_id: int, **values: Any) -> None:
    connection.execute(update(grants).where(grants.c.id == grant_id).values(**values, updated_at=now_ms()))


def _lock(connection: Connection, grant_id: int) -> Row[Any] | None:
    """The row of the grant's key, locked: a key's grants move one after the other."""
    return lock_key(connection, keys.c.id == select(grants.c.key).where(grants.c.id == grant_id).scalar_subquery())


def _key(connection: Connection, key_id: str, *, lock: bool = False) -> Row[Any]:
    key = books.lock_row(connection, key_id) if lock else books.find_row(connection, key_id)
    if key is None:
        raise Invalid("There is no such key.", errors={"key_id": "unknown"})
    return key


def _select() -> Select[Any]:
    return (
        select(
            grants,
            keys.c.key_id,
            keys.c.unkey_id,
            entries.c.kind,
            entries.c.reason,
            entries.c.reference,
            _is_retired().label("is_retired"),
        )
        .join(keys, keys.c.id == grants.c.key)
        .join(entries, entries.c.id == grants.c.entry)
    )


def _grant(row: Row[Any]) -> Grant:
    return Grant(
        id=row.id,
        key_id=row.key_id,
        unkey_id=row.unkey_id,
        amount=row.amount,
        kind=row.kind,
        reason=row.reason,
        reference=row.reference,
        state=row.state,
        attempts=row.attempts,
        due_at=row.due_at,
        sent_at=row.sent_at,
        remaining_before=row.remaining_before,
        remaining_after=row.remaining_after,
        cause=ROTATING if row.is_retired and row.state == "pending" else row.cause,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
